//! What is found, against a record of what was written into each block.

use std::collections::BTreeMap;

use proptest::prelude::*;
use types::{
    BlockCopy, CacheGroup,
    CopyDirection::{ToDevice, ToHost},
};

use super::*;
use crate::{BlockTables, Found, Hit, KvManager, Miss, tests::config};

fn kv(groups: &[(u32, u32)]) -> KvManager {
    kv_with_host(groups, 0)
}

fn kv_with_host(groups: &[(u32, u32)], host_blocks: u32) -> KvManager {
    let group = |&(blocks, block_tokens)| CacheGroup {
        host_blocks,
        ..CacheGroup::new(blocks, block_tokens)
    };
    let groups: Vec<CacheGroup> = groups.iter().map(group).collect();
    KvManager::new(&groups, true).unwrap()
}

/// A sequence in the cache.
struct Sequence {
    tokens: Vec<TokenId>,
    key: PrefixKey,
    tables: BlockTables,
    computed: u32,
    /// Up to where it may be brought back from the host's memory; nothing once something was computed.
    on_host_end: u32,
}

/// A sequence with all that the cache has of it.
fn start(kv: &mut KvManager, salt: &str, tokens: &[TokenId]) -> Sequence {
    let key = kv.key(salt.into(), tokens);
    let mut tables = kv.tables();
    let hit = kv.find(&key, tokens.len() as u32);
    let Found { positions, on_host } = kv.take(&mut tables, &key, tokens, tokens.len() as u32);
    assert_eq!(hit.positions, positions + on_host, "no hashes collide here");
    let on_host_end = positions + on_host;
    Sequence { tokens: tokens.to_vec(), key, tables, computed: positions, on_host_end }
}

/// Brings back what is in the host's memory, if there is room, at most so many blocks.
fn bring_back(kv: &mut KvManager, sequence: &mut Sequence, blocks_max: u32) -> u32 {
    let Sequence { tokens, key, tables, computed, on_host_end } = sequence;
    if *computed >= *on_host_end || kv.grow(tables, *on_host_end).is_err() {
        return 0;
    }
    let brought = kv.bring_back(tables, key, tokens, *on_host_end, blocks_max);
    *computed += brought;
    brought
}

/// Computes a sequence up to a position, if there is room.
fn compute(kv: &mut KvManager, sequence: &mut Sequence, end: u32) -> bool {
    if kv.grow(&mut sequence.tables, end).is_err() {
        return false;
    }
    if end > sequence.computed {
        sequence.on_host_end = 0;
    }
    sequence.computed = sequence.computed.max(end);
    let Sequence { tokens, key, tables, computed, .. } = sequence;
    kv.remember(tables, key, tokens, *computed);
    kv.give_back(tables, *computed);
    true
}

fn computed(kv: &mut KvManager, salt: &str, tokens: &[TokenId]) -> Sequence {
    let mut sequence = start(kv, salt, tokens);
    assert!(compute(kv, &mut sequence, tokens.len() as u32), "there is room");
    sequence
}

fn tokens(range: std::ops::Range<u32>) -> Vec<TokenId> {
    range.collect()
}

#[test]
fn a_sequence_finds_its_whole_blocks_held_or_not() {
    let mut kv = kv(&[(8, 4)]);
    let first = computed(&mut kv, "", &tokens(0..10));
    let second = start(&mut kv, "", &tokens(0..20));
    assert_eq!(second.computed, 8);
    assert_eq!(second.tables.groups()[0].blocks(), &first.tables.groups()[0].blocks()[..2]);
    assert_eq!(kv.find(&second.key, 8), Hit { positions: 8, held: vec![2] });
    assert_eq!(kv.find(&second.key, 7).positions, 4, "no more than asked for");
    kv.release(first.tables);
    kv.release(second.tables);
    assert_eq!((kv.blocks_used(), kv.blocks_cached()), (0, 2));
    let third = start(&mut kv, "", &tokens(0..9));
    assert_eq!((third.computed, kv.blocks_used(), kv.blocks_cached()), (8, 2, 0));
    kv.release(third.tables);
}

#[test]
fn a_miss_has_a_reason() {
    let mut kv = kv(&[(4, 4), (8, 2)]);
    let first = computed(&mut kv, "one", &tokens(0..8));
    let reason = |kv: &KvManager, salt: &str, tokens: Vec<TokenId>| {
        let (key, len) = (kv.key(salt.into(), &tokens), tokens.len() as u32);
        kv.miss(&key, kv.find(&key, len).positions, len)
    };
    assert_eq!(reason(&kv, "one", tokens(0..8)), None);
    assert_eq!(reason(&kv, "one", tokens(0..11)), Some(Miss::BelowBlock));
    assert_eq!(reason(&kv, "one", tokens(0..12)), Some(Miss::Unknown));
    assert_eq!(reason(&kv, "one", tokens(4..8)), Some(Miss::Unknown));
    assert_eq!(reason(&kv, "two", tokens(0..8)), Some(Miss::OtherSalt));
    assert_eq!(reason(&kv, "two", tokens(1..9)), Some(Miss::Unknown));
    kv.release(first.tables);
    let second = computed(&mut kv, "one", &tokens(20..32));
    assert_eq!(reason(&kv, "one", tokens(0..8)), Some(Miss::Evicted));
    assert_eq!(reason(&kv, "two", tokens(0..8)), Some(Miss::OtherSalt), "the first block is there");
    kv.release(second.tables);
    let off = KvManager::new(&[CacheGroup::new(4, 4)], false).unwrap();
    assert_eq!(reason(&off, "one", tokens(0..8)), Some(Miss::Off));
}

#[test]
fn another_salt_or_another_beginning_finds_nothing() {
    let mut kv = kv(&[(8, 4)]);
    let first = computed(&mut kv, "one", &tokens(0..8));
    let mut other = tokens(0..8);
    other[0] = 99;
    for (salt, tokens) in [("two", tokens(0..8)), ("one", other), ("one", tokens(4..8))] {
        let missed = start(&mut kv, salt, &tokens);
        assert_eq!(missed.computed, 0, "{salt} {tokens:?}");
        kv.release(missed.tables);
    }
    kv.release(first.tables);
}

#[test]
fn colliding_hashes_cost_a_hit_and_serve_nothing_wrong() {
    let wanted = tokens(0..8);
    let key = kv(&[(8, 4)]).key("".into(), &wanted);
    // Other texts' blocks under the hashes of this one: other tokens first, and the same tokens behind others.
    let other_tokens = ([50, 51, 52, 53, 4, 5, 6, 7], 0, 0);
    let other_beginning = ([60, 1, 2, 3, 4, 5, 6, 7], 1, 4);
    for ((text, replaced, taken), mut kv) in [
        (other_tokens, kv(&[(8, 4)])),
        (other_beginning, kv(&[(8, 4)])),
        (other_tokens, kv_with_window(8, 8)),
        (other_beginning, kv_with_window(8, 8)),
    ] {
        if replaced == 1 {
            let beginning = computed(&mut kv, "", &wanted[..4]);
            kv.release(beginning.tables);
        }
        let mut other = start(&mut kv, "", &text);
        other.key.groups[0][replaced..].clone_from_slice(&key.groups[0][replaced..]);
        kv.grow(&mut other.tables, 8).unwrap();
        kv.remember(&mut other.tables, &mut other.key, &text, 8);
        let mut tables = kv.tables();
        assert_eq!(kv.find(&key, 8).positions, 8, "by the hashes alone");
        assert_eq!(kv.take(&mut tables, &key, &wanted, 8).positions, taken, "by the tokens");
        let (tokens, key) = (wanted.clone(), key.clone());
        let mut sequence = Sequence { tokens, key, tables, computed: taken, on_host_end: 0 };
        assert!(compute(&mut kv, &mut sequence, 8));
        kv.invariants([&sequence.tables, &other.tables].into_iter());
        kv.release(sequence.tables);
        kv.release(other.tables);
    }
}

#[test]
fn the_longest_unused_goes_first_and_the_last_of_a_sequence_before_its_beginning() {
    let mut kv = kv(&[(6, 4)]);
    let old = computed(&mut kv, "", &tokens(0..12));
    let new = computed(&mut kv, "", &tokens(100..112));
    kv.release(old.tables);
    kv.release(new.tables);
    let found = |kv: &KvManager| {
        [tokens(0..12), tokens(100..112)]
            .map(|tokens| kv.find(&kv.key("".into(), &tokens), 12).positions)
    };
    let mut found_after = Vec::new();
    let mut taker = start(&mut kv, "", &tokens(200..224));
    for end in [4, 8, 12, 16, 20, 24] {
        assert!(compute(&mut kv, &mut taker, end));
        found_after.push(found(&kv));
    }
    assert_eq!(found_after, [[8, 12], [4, 12], [0, 12], [0, 8], [0, 4], [0, 0]]);
    kv.release(taker.tables);
}

#[test]
fn a_hit_moves_its_blocks_to_the_end_of_the_line() {
    let mut kv = kv(&[(4, 4)]);
    for range in [0..8, 100..108, 0..8] {
        let sequence = computed(&mut kv, "", &tokens(range));
        kv.release(sequence.tables);
    }
    let taker = computed(&mut kv, "", &tokens(200..208));
    assert_eq!(kv.find(&kv.key("".into(), &tokens(0..8)), 8).positions, 8);
    assert_eq!(kv.find(&kv.key("".into(), &tokens(100..108)), 8).positions, 0);
    kv.release(taker.tables);
}

#[test]
fn beyond_what_is_kept_fresh_blocks_are_for_requests_that_need_them() {
    let group = CacheGroup { blocks_kept: 4, ..CacheGroup::new(8, 4) };
    let mut kv = KvManager::new(&[group], true).unwrap();
    let last_block = |sequence: &Sequence| {
        sequence.tables.groups()[0].blocks().iter().map(|block| block.0).max().unwrap()
    };
    for first in [0, 100, 200, 300] {
        let sequence = computed(&mut kv, "", &tokens(first..first + 8));
        assert!(last_block(&sequence) < 4, "what is cached goes first");
        kv.release(sequence.tables);
    }
    let found =
        |kv: &KvManager, first| kv.find(&kv.key("".into(), &tokens(first..first + 8)), 8).positions;
    assert_eq!([100, 200, 300].map(|first| found(&kv, first)), [0, 8, 8]);
    let large = computed(&mut kv, "", &tokens(400..432));
    assert_eq!((last_block(&large), kv.pools()[0].free()), (7, 0), "requests get all blocks");
    kv.release(large.tables);
    assert_eq!((found(&kv, 400), kv.blocks_cached()), (8, 8), "and memory in use stays in use");
}

#[test]
fn what_a_failed_request_computed_is_forgotten_and_what_it_found_is_not() {
    let mut kv = kv(&[(8, 4)]);
    let good = computed(&mut kv, "", &tokens(0..4));
    let spoilt = computed(&mut kv, "", &tokens(0..12));
    kv.release_spoilt(spoilt.tables, &spoilt.key, &spoilt.tokens);
    assert_eq!(kv.find(&kv.key("".into(), &tokens(0..12)), 12).positions, 4);
    assert_eq!(kv.blocks_cached(), 0);
    kv.release(good.tables);
    assert_eq!(kv.blocks_cached(), 1);
    kv.forget_all();
    assert_eq!((kv.blocks_cached(), kv.pools()[0].free()), (0, 8));
}

#[test]
fn what_two_compute_at_once_is_held_once_and_what_comes_after_it_is_found() {
    let mut kv = kv(&[(10, 4)]);
    let (mut one, mut other) =
        (start(&mut kv, "", &tokens(0..8)), start(&mut kv, "", &tokens(0..9)));
    assert!(kv.grow(&mut one.tables, 8).is_ok() && compute(&mut kv, &mut other, 7));
    assert!(compute(&mut kv, &mut one, 8));
    assert_eq!(
        kv.blocks_used(),
        3,
        "the first blocks of the two are one, and the second are not yet"
    );
    other.tokens.extend(tokens(100..110));
    assert!(compute(&mut kv, &mut other, 19));
    assert_eq!(kv.blocks_used(), 5);
    kv.invariants([&one.tables, &other.tables].into_iter());
    let all = other.tokens.clone();
    kv.release(one.tables);
    kv.release(other.tables);
    assert_eq!(kv.find(&kv.key("".into(), &all), 19).positions, 16);
}

#[test]
fn groups_are_hit_together() {
    // A hit is a multiple of 12 positions, and both groups must have it.
    let mut kv = kv(&[(20, 4), (20, 6)]);
    let first = computed(&mut kv, "", &tokens(0..23));
    let second = start(&mut kv, "", &tokens(0..23));
    assert_eq!(second.computed, 12);
    let lengths: Vec<_> = second.tables.groups().iter().map(|table| table.blocks().len()).collect();
    assert_eq!(lengths, [3, 2]);
    assert_eq!(kv.to_come((&first.tables, &first.key), &second.key, 23), 12);
    kv.release(first.tables);
    kv.release(second.tables);
}

#[test]
fn a_cache_that_is_told_not_to_finds_nothing() {
    let mut kv = KvManager::new(&[CacheGroup::new(8, 4)], false).unwrap();
    for _ in 0..2 {
        let sequence = computed(&mut kv, "", &tokens(0..12));
        assert_eq!(sequence.tables.groups()[0].known, 0);
        kv.release(sequence.tables);
        assert_eq!(kv.blocks_cached(), 0);
    }
}

#[test]
fn what_made_room_comes_back_from_the_host() {
    let mut kv = kv_with_host(&[(4, 4)], 4);
    let first = computed(&mut kv, "", &tokens(0..12));
    kv.release(first.tables);
    let second = computed(&mut kv, "", &tokens(100..112));
    let moves = |copies: Vec<BlockCopy>| -> Vec<String> {
        let arrow = |copy: &BlockCopy| if copy.direction == ToHost { '>' } else { '<' };
        copies.iter().map(|copy| format!("{}{}{}", copy.block, arrow(copy), copy.slot)).collect()
    };
    assert_eq!(moves(kv.take_copies()), ["b2>h0", "b1>h1"], "the last of a sequence first");
    kv.release(second.tables);
    assert_eq!((kv.blocks_cached(), kv.host_blocks()), (4, (2, 4)));
    let mut third = start(&mut kv, "", &tokens(0..14));
    assert_eq!((third.computed, third.on_host_end), (4, 12));
    assert_eq!(bring_back(&mut kv, &mut third, 1), 4, "no more than allowed");
    assert_eq!(bring_back(&mut kv, &mut third, 9), 4);
    assert_eq!(moves(kv.take_copies()), ["b1>h2", "b2>h3", "b1<h1", "b2<h0"]);
    let blocks: Vec<u32> = third.tables.groups()[0].blocks().iter().map(|b| b.0).collect();
    assert_eq!(blocks, [0, 1, 2]);
    kv.invariants([&third.tables].into_iter());
    kv.release(third.tables);
}

#[test]
fn the_host_forgets_the_longest_unused_and_not_what_is_about_to_be_of_use() {
    let mut kv = kv_with_host(&[(2, 4)], 4);
    for range in [0..8, 100..108, 200..208] {
        let sequence = computed(&mut kv, "", &tokens(range));
        kv.release(sequence.tables);
    }
    assert_eq!(kv.host_blocks(), (4, 4));
    let mut first = start(&mut kv, "", &tokens(0..8));
    assert_eq!((first.computed, first.on_host_end), (0, 8));
    assert_eq!(bring_back(&mut kv, &mut first, 9), 8);
    let reason = |kv: &KvManager, range: std::ops::Range<u32>| {
        let (key, len) = (kv.key("".into(), &tokens(range.clone())), range.len() as u32);
        let found = kv.find(&key, len).positions;
        (found, kv.miss(&key, found, len))
    };
    assert_eq!(reason(&kv, 100..108), (0, Some(Miss::Evicted)), "the oldest that nobody wants");
    assert_eq!(reason(&kv, 200..208), (8, None));
    kv.invariants([&first.tables].into_iter());
    kv.release(first.tables);
}

#[test]
fn what_is_computed_again_is_found_where_it_was_computed() {
    let mut kv = kv_with_host(&[(3, 4)], 4);
    let old = computed(&mut kv, "", &tokens(0..12));
    kv.release(old.tables);
    let other = computed(&mut kv, "", &tokens(100..112));
    kv.release(other.tables);
    kv.take_copies();
    assert_eq!(kv.host_blocks().0, 3);
    let mut again = start(&mut kv, "", &tokens(0..12));
    assert!(compute(&mut kv, &mut again, 8), "it does not wait for the host");
    assert_eq!((again.tables.is_open(), kv.find(&again.key, 12).held), (true, vec![2]));
    // What is left in the host's memory stands behind what this one computed, and that was wrong.
    kv.release_spoilt(again.tables, &again.key, &again.tokens);
    kv.invariants([].into_iter());
    assert_eq!(kv.find(&kv.key("".into(), &tokens(0..12)), 12).positions, 0);
}

fn kv_with_window(blocks: u32, window: u32) -> KvManager {
    let group = CacheGroup { content: CacheContent::Window(window), ..CacheGroup::new(blocks, 4) };
    KvManager::new(&[group], true).unwrap()
}

/// A sequence computed four positions at a time.
fn computed_slowly(kv: &mut KvManager, tokens: &[TokenId]) -> Sequence {
    let mut sequence = start(kv, "", tokens);
    for end in (sequence.computed..=tokens.len() as u32).step_by(4) {
        assert!(compute(kv, &mut sequence, end), "there is room");
    }
    sequence
}

#[test]
fn where_there_is_a_window_a_long_sequence_holds_few_blocks_and_is_found_all_the_same() {
    let mut kv = kv_with_window(6, 8);
    let long = computed_slowly(&mut kv, &tokens(0..80));
    let table = &long.tables.groups()[0];
    assert_eq!((table.blocks().len(), table.held().count()), (20, 2));
    // What fell out of the window is cached, but there is no room for all of it.
    assert_eq!((kv.blocks_used(), kv.blocks_cached()), (2, 4));
    kv.release(long.tables);
    let reason = |kv: &KvManager, end: u32| {
        let key = kv.key("".into(), &tokens(0..end));
        let found = kv.find(&key, end).positions;
        (found, kv.miss(&key, found, end))
    };
    assert_eq!(reason(&kv, 80), (80, None));
    assert_eq!(reason(&kv, 64), (64, None), "the blocks before are there as well");
    assert_eq!(reason(&kv, 60), (0, Some(Miss::Evicted)), "it sees one that is not");
    let again = start(&mut kv, "", &tokens(0..80));
    assert_eq!((again.computed, kv.blocks_used()), (80, 2));
    kv.invariants([&again.tables].into_iter());
    kv.release(again.tables);
    // With the last of the sequence goes all that was known for its sake.
    let other = computed(&mut kv, "", &tokens(100..124));
    assert_eq!(reason(&kv, 80), (0, Some(Miss::Unknown)), "and that long ago");
    assert_eq!(kv.pools()[0].index.by_hash.len(), 6);
    kv.release(other.tables);
}

#[test]
fn what_is_nowhere_is_compared_and_comes_back_when_it_is_computed_again() {
    let mut kv = kv_with_window(5, 8);
    let long = computed_slowly(&mut kv, &tokens(0..40));
    kv.release(long.tables);
    let mut other = tokens(0..40);
    other[1] = 99;
    let mut tables = kv.tables();
    let key = kv.key("".into(), &tokens(0..40));
    assert_eq!(kv.find(&key, 40).positions, 40);
    assert_eq!(kv.take(&mut tables, &key, &other, 40).positions, 0, "by the tokens");
    kv.release(tables);
    let again = computed(&mut kv, "", &tokens(0..16));
    assert!(again.tables.is_open(), "it is the same, and nobody has it");
    assert_eq!(kv.find(&again.key, 16).positions, 16);
    kv.invariants([&again.tables].into_iter());
    kv.release(again.tables);
}

#[test]
fn what_a_failed_request_gave_back_is_forgotten_as_well() {
    let mut kv = kv_with_window(20, 8);
    let good = computed(&mut kv, "", &tokens(0..8));
    let spoilt = computed_slowly(&mut kv, &tokens(0..40));
    kv.release_spoilt(spoilt.tables, &spoilt.key, &spoilt.tokens);
    kv.invariants([&good.tables].into_iter());
    assert_eq!(kv.find(&kv.key("".into(), &tokens(0..40)), 40).positions, 8);
    assert_eq!(kv.blocks_cached(), 0);
    kv.release(good.tables);
}

#[test]
fn no_more_is_known_than_there_is_room_for() {
    let mut kv = kv_with_window(4, 4);
    let mut old = computed_slowly(&mut kv, &tokens(0..4 * 200));
    let nodes_max = kv.pools()[0].index.nodes_max;
    assert_eq!((kv.pools()[0].index.by_hash.len(), nodes_max), (200, 256));
    old.tokens.extend(tokens(1000..1400));
    assert!(compute(&mut kv, &mut old, 810));
    for end in (810..1200).step_by(4) {
        assert!(compute(&mut kv, &mut old, end));
    }
    assert!(!old.tables.is_open(), "what comes now is found by nobody");
    kv.invariants([&old.tables].into_iter());
    kv.release(old.tables);
    // What nobody holds makes room for others.
    let new = computed(&mut kv, "", &tokens(5000..5008));
    assert!(new.tables.is_open());
    assert_eq!(kv.pools()[0].index.by_hash.len(), 2);
    kv.release(new.tables);
}

/// Does what a plan's copies say.
fn copy(
    copies: &[BlockCopy],
    written: &mut BTreeMap<(usize, BlockId), (u8, Vec<TokenId>)>,
    on_host: &mut BTreeMap<(usize, HostSlot), (u8, Vec<TokenId>)>,
) {
    for copy in copies {
        let (block, slot) = ((copy.group as usize, copy.block), (copy.group as usize, copy.slot));
        match copy.direction {
            ToHost => drop(on_host.insert(slot, written[&block].clone())),
            ToDevice => drop(written.insert(block, on_host[&slot].clone())),
        }
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Start { salt: u8, tokens: Vec<TokenId> },
    Compute { which: usize, count: u32 },
    BringBack { which: usize, blocks_max: u32 },
    Append { which: usize, token: TokenId },
    Release { which: usize },
    Spoil { which: usize },
    ForgetAll,
}

fn operation() -> impl Strategy<Value = Operation> {
    let sequence = prop::collection::vec(0..2u32, 1..20);
    prop_oneof![
        4 => (0..2u8, sequence).prop_map(|(salt, tokens)| Operation::Start { salt, tokens }),
        12 => (any::<usize>(), 1..8u32).prop_map(|(which, count)| Operation::Compute { which, count }),
        6 => (any::<usize>(), 1..6u32)
            .prop_map(|(which, blocks_max)| Operation::BringBack { which, blocks_max }),
        4 => (any::<usize>(), 0..2u32).prop_map(|(which, token)| Operation::Append { which, token }),
        3 => any::<usize>().prop_map(|which| Operation::Release { which }),
        1 => any::<usize>().prop_map(|which| Operation::Spoil { which }),
        1 => Just(Operation::ForgetAll),
    ]
}

proptest! {
    #![proptest_config(config(512))]

    /// Whatever comes and goes, every block of a request holds what the request would have computed there.
    #[test]
    fn a_request_finds_only_what_it_would_have_computed(
        groups in prop::collection::vec((2..10u32, 1..5u32, 0..10u32, 0..8u32), 1..3),
        contents in prop::collection::vec(prop_oneof![
            7 => Just(CacheContent::Everything),
            3 => (1..12u32).prop_map(CacheContent::Window),
        ], 2),
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let of_groups = &contents[..groups.len()];
        let has_windows = of_groups.iter().any(|content| *content != CacheContent::Everything);
        let group = |(&(blocks, block_tokens, blocks_kept, host_blocks), &content)| {
            let host_blocks = if has_windows { 0 } else { host_blocks };
            CacheGroup { blocks, block_tokens, blocks_kept, host_blocks, content }
        };
        let groups: Vec<CacheGroup> = groups.iter().zip(&contents).map(group).collect();
        let mut kv = KvManager::new(&groups, true).unwrap();
        // For each group, the most blocks that were held at once since the cache was last emptied.
        let mut held_most = vec![0; groups.len()];
        let mut live: Vec<(u8, Sequence)> = Vec::new();
        // For each group and block, the salt and the tokens up to its end: what an executor would have written.
        let mut written: BTreeMap<(usize, BlockId), (u8, Vec<TokenId>)> = BTreeMap::new();
        // The same of the host's memory.
        let mut on_host: BTreeMap<(usize, HostSlot), (u8, Vec<TokenId>)> = BTreeMap::new();
        for operation in operations {
            match operation {
                Operation::Start { salt, tokens } => {
                    let sequence = start(&mut kv, &salt.to_string(), &tokens);
                    live.push((salt, sequence));
                }
                Operation::ForgetAll => {
                    for (_, sequence) in live.drain(..) {
                        kv.release(sequence.tables);
                    }
                    kv.forget_all();
                    written.clear();
                    on_host.clear();
                    held_most.fill(0);
                    prop_assert_eq!(kv.blocks_cached(), 0);
                }
                _ if live.is_empty() => {}
                Operation::Compute { which, count } => {
                    let which = which % live.len();
                    let (salt, sequence) = &mut live[which];
                    let begun = sequence.computed;
                    let end = (begun + count).min(sequence.tokens.len() as u32);
                    if kv.grow(&mut sequence.tables, end).is_err() {
                        continue;
                    }
                    for (pool, most) in kv.pools().iter().zip(&mut held_most) {
                        *most = (pool.total() - pool.free()).max(*most);
                    }
                    copy(&kv.take_copies(), &mut written, &mut on_host);
                    for (group, (table, &CacheGroup { block_tokens, .. })) in
                        sequence.tables.groups().iter().zip(&groups).enumerate()
                    {
                        for position in begun..end {
                            let block = table.blocks()[(position / block_tokens) as usize];
                            let upto = sequence.tokens[..=position as usize].to_vec();
                            written.insert((group, block), (*salt, upto));
                        }
                    }
                    prop_assert!(compute(&mut kv, sequence, end));
                }
                Operation::BringBack { which, blocks_max } => {
                    let which = which % live.len();
                    let (_, sequence) = &mut live[which];
                    bring_back(&mut kv, sequence, blocks_max);
                    copy(&kv.take_copies(), &mut written, &mut on_host);
                }
                Operation::Append { which, token } => {
                    let which = which % live.len();
                    live[which].1.tokens.push(token);
                }
                Operation::Release { which } => {
                    let (_, sequence) = live.swap_remove(which % live.len());
                    kv.release(sequence.tables);
                }
                Operation::Spoil { which } => {
                    let (_, Sequence { tables, key, tokens, .. }) =
                        live.swap_remove(which % live.len());
                    kv.release_spoilt(tables, &key, &tokens);
                }
            }
            kv.invariants(live.iter().map(|(_, sequence)| &sequence.tables));
            for ((pool, group), most) in kv.pools().iter().zip(&groups).zip(&mut held_most) {
                *most = (pool.total() - pool.free()).max(*most);
                prop_assert!(pool.touched() <= group.blocks_kept.max(*most), "memory without need");
            }
            for (salt, sequence) in &live {
                for (group, (table, limits)) in
                    sequence.tables.groups().iter().zip(&groups).enumerate()
                {
                    let block_tokens = limits.block_tokens;
                    let whole = (sequence.computed / block_tokens) as usize;
                    let first = limits.first_needed(sequence.computed) as usize;
                    for (index, block) in table.blocks()[..whole].iter().enumerate() {
                        prop_assert_eq!(*block == BlockId::GONE, index < first);
                        if index < first {
                            continue;
                        }
                        let upto = &sequence.tokens[..(index + 1) * block_tokens as usize];
                        let (by, holds) = &written[&(group, *block)];
                        prop_assert_eq!((by, &holds[..]), (salt, upto), "another text's block");
                    }
                }
            }
        }
    }
}
