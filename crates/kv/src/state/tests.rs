//! States against a naive executor that keeps, in each block, the text that its state has seen.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use types::{CacheContent, CacheGroup};

use super::*;
use crate::{Miss, Shortage, tests::config};

/// A group of states whose checkpoints are at multiples of 4 positions, and at least 8 apart.
fn states(blocks: u32) -> CacheGroup {
    CacheGroup { content: CacheContent::State(8), ..CacheGroup::new(blocks, 4) }
}

/// What a state has seen: the salt and the tokens.
type Seen = (String, Vec<TokenId>);

/// A cache and what an executor has in the blocks of its states.
struct Cache {
    kv: KvManager,
    written: BTreeMap<(usize, BlockId), Seen>,
    copied: usize,
}

#[derive(Debug)]
struct Sequence {
    salt: String,
    tokens: Vec<TokenId>,
    key: PrefixKey,
    tables: BlockTables,
    /// Positions that are computed by steps under way, or were.
    planned: u32,
    /// Ends of steps under way.
    under_way: VecDeque<u32>,
}

impl Cache {
    fn new(groups: &[CacheGroup]) -> Self {
        let kv = KvManager::new(groups, true).unwrap();
        Self { kv, written: BTreeMap::new(), copied: 0 }
    }

    /// A sequence with what is found of all but its last token, if there is room.
    fn start(&mut self, salt: &str, tokens: &[TokenId]) -> Result<Sequence, Shortage> {
        let key = self.kv.key(salt.into(), tokens);
        let (mut tables, max) = (self.kv.tables(), tokens.len() as u32 - 1);
        let hit = self.kv.find(&key, max);
        let found = self.kv.take(&mut tables, &key, tokens, max);
        assert_eq!((hit.positions, 0), (found.positions, found.on_host), "no hashes collide here");
        let started = self.kv.grow_to_start(&mut tables, found.positions + 1, tokens.len() as u32);
        if let Err(shortage) = started {
            self.kv.release(tables);
            return Err(shortage);
        }
        let (salt, tokens) = (salt.to_owned(), tokens.to_vec());
        let (planned, under_way) = (found.positions, VecDeque::new());
        Ok(Sequence { salt, tokens, key, tables, planned, under_way })
    }

    /// Has the next positions of a sequence computed: at most so many, and no more than to the next checkpoint.
    fn plan(&mut self, sequence: &mut Sequence, count: u32) {
        let Sequence { salt, tokens, tables, planned, under_way, .. } = sequence;
        let begin = *planned;
        let end = (begin + count).min(tokens.len() as u32);
        let end = self.kv.checkpoint_within(tables, begin..end).unwrap_or(end);
        if end == begin || self.kv.grow(tables, end).is_err() {
            return;
        }
        let handed = self.kv.hand_out(tables, begin..end);
        for StateCopy { group, from, to } in self.kv.take_state_copies() {
            let seen = self.written[&(group as usize, from)].clone();
            self.written.insert((group as usize, to), seen);
            self.copied += 1;
        }
        let upto = |end: u32| (salt.clone(), tokens[..end as usize].to_vec());
        for (group, blocks) in handed.iter().enumerate() {
            if !self.kv.pools()[group].group().is_state() {
                continue;
            }
            let [block] = blocks[..] else { panic!("a request has one state: {blocks:?}") };
            if begin > 0 {
                assert_eq!(self.written[&(group, block)], upto(begin), "another text's state");
            }
            self.written.insert((group, block), upto(end));
        }
        *planned = end;
        under_way.push_back(end);
    }

    /// The oldest step of a sequence has ended.
    fn commit(&mut self, sequence: &mut Sequence) {
        let Sequence { tokens, key, tables, under_way, .. } = sequence;
        if let Some(end) = under_way.pop_front() {
            self.kv.remember(tables, key, tokens, end);
            self.kv.give_back(tables, end);
        }
    }

    /// All of a sequence, step by step, and its blocks given back.
    fn compute(&mut self, salt: &str, tokens: &[TokenId], count: u32) -> u32 {
        let mut sequence = self.start(salt, tokens).expect("there is room");
        let found = sequence.planned;
        while sequence.planned < tokens.len() as u32 {
            self.plan(&mut sequence, count);
            self.commit(&mut sequence);
            self.kv.invariants([&sequence.tables].into_iter());
        }
        self.kv.release(sequence.tables);
        found
    }
}

fn tokens(range: Range<u32>) -> Vec<TokenId> {
    range.collect()
}

#[test]
fn a_request_leaves_checkpoints_behind_and_another_begins_with_the_last() {
    let mut cache = Cache::new(&[CacheGroup::new(40, 2), states(8)]);
    // In chunks of 10, which end at 8, 16, 24, 32 and at the end.
    assert_eq!(cache.compute("", &tokens(0..39), 10), 0);
    assert_eq!((cache.copied, cache.kv.pools()[1].cached()), (4, 4));
    assert_eq!(cache.compute("", &tokens(0..39), 10), 32);
    assert_eq!(cache.copied, 5, "and one that begins with the last");
    // Only what the two have in common, and only for the same salt.
    let other = [tokens(0..30), tokens(100..110)].concat();
    assert_eq!(cache.compute("", &other, 10), 24);
    assert_eq!(cache.compute("other", &tokens(0..39), 10), 0);
    assert_eq!(cache.kv.blocks_used(), 0);
}

#[test]
fn a_hit_ends_where_all_groups_have_what_it_takes() {
    let wide = CacheGroup { content: CacheContent::Window(6), ..CacheGroup::new(30, 3) };
    let mut cache = Cache::new(&[CacheGroup::new(60, 2), wide, states(8)]);
    // Checkpoints are at multiples of 12 alone, so that a block ends there in each group.
    assert_eq!(cache.compute("", &tokens(0..59), 100), 0);
    assert_eq!(cache.compute("", &tokens(0..59), 100), 48);
    // Of these the first group has no more than the beginning.
    let other = [tokens(0..40), tokens(100..120)].concat();
    assert_eq!(cache.compute("", &other, 7), 0, "there was no chunk's end in between");
    assert_eq!(cache.compute("", &other, 7), 48);
}

#[test]
fn a_checkpoint_leaves_a_block_for_a_request_that_waits() {
    let mut cache = Cache::new(&[states(3)]);
    let mut one = cache.start("", &tokens(0..40)).unwrap();
    cache.plan(&mut one, 8);
    // Its own, the checkpoint, and one that is left.
    assert_eq!((cache.kv.pools()[0].free(), one.planned), (1, 8));
    cache.plan(&mut one, 9);
    assert_eq!((cache.kv.pools()[0].free(), one.planned), (1, 17), "no checkpoint at 16");
    cache.commit(&mut one);
    cache.commit(&mut one);
    cache.plan(&mut one, 9);
    assert_eq!(one.planned, 24);
    cache.kv.invariants([&one.tables].into_iter());
    cache.kv.release(one.tables);
}

#[test]
fn where_no_other_block_is_free_the_checkpoint_itself_is_gone_on_with() {
    let mut cache = Cache::new(&[states(3)]);
    cache.compute("", &tokens(0..10), 8);
    assert_eq!(cache.kv.pools()[0].cached(), 1);
    let others: Vec<Sequence> = (1..3)
        .map(|other| cache.start("", &tokens(other * 100..other * 100 + 5)).unwrap())
        .collect();
    let mut again = cache.start("", &tokens(0..10)).unwrap();
    assert_eq!(again.planned, 8);
    cache.plan(&mut again, 2);
    assert_eq!(cache.copied, 1, "the first went on from its checkpoint, and this one in it");
    let shortage = Shortage { group: 0, wanted: 1, free: 0 };
    assert_eq!(cache.start("", &tokens(0..10)).map(|_| ()), Err(shortage));
    let all = others.into_iter().chain([again]);
    all.for_each(|sequence| cache.kv.release(sequence.tables));
    assert_eq!(cache.kv.pools()[0].cached(), 0, "it is a checkpoint no longer");
    cache.kv.invariants([].into_iter());
}

#[test]
fn a_miss_tells_that_there_was_no_checkpoint() {
    let mut cache = Cache::new(&[CacheGroup::new(60, 2), states(8)]);
    cache.compute("", &tokens(0..40), 100);
    let key = cache.kv.key("".into(), &tokens(0..39));
    assert_eq!(cache.kv.find(&key, 38).positions, 0);
    assert_eq!(cache.kv.miss(&key, 0, 38), Some(Miss::NoCheckpoint));
    let key = cache.kv.key("".into(), &tokens(1..39));
    assert_eq!(cache.kv.miss(&key, 0, 37), Some(Miss::Unknown));
}

#[test]
fn what_a_failed_request_left_behind_is_forgotten_and_what_it_began_with_is_not() {
    let mut cache = Cache::new(&[states(8)]);
    cache.compute("", &tokens(0..12), 8);
    let mut spoilt = cache.start("", &tokens(0..40)).unwrap();
    assert_eq!(spoilt.planned, 8);
    for _ in 0..3 {
        cache.plan(&mut spoilt, 8);
        cache.commit(&mut spoilt);
    }
    cache.plan(&mut spoilt, 8);
    assert_eq!(cache.kv.pools()[0].cached(), 4, "at 8, 16, 24 and 32");
    cache.kv.release_spoilt(spoilt.tables, &spoilt.key, &spoilt.tokens);
    cache.kv.invariants([].into_iter());
    let key = cache.kv.key("".into(), &tokens(0..40));
    assert_eq!(cache.kv.find(&key, 40).positions, 8);
    assert_eq!(cache.kv.pools()[0].cached(), 1);
}

#[test]
fn steps_to_come_are_reckoned_with_as_far_as_they_leave_checkpoints() {
    let mut cache = Cache::new(&[CacheGroup::new(60, 4), states(8)]);
    let mut one = cache.start("", &tokens(0..40)).unwrap();
    cache.plan(&mut one, 30);
    assert_eq!(one.planned, 28);
    cache.plan(&mut one, 6);
    let key = cache.kv.key("".into(), &tokens(0..33));
    let to_come = |max| cache.kv.to_come((&one.tables, &one.key), &key, max);
    assert_eq!((to_come(40), to_come(27)), (28, 0));
    cache.kv.release(one.tables);
}

#[test]
fn no_more_is_known_than_there_is_room_for() {
    let mut cache = Cache::new(&[states(4)]);
    for text in 0..20 {
        let begin = text * 10_000;
        cache.compute("", &tokens(begin..begin + 700), 500);
    }
    let index = &cache.kv.pools()[0].index;
    assert!(index.room() < 200, "{}", index.room());
    cache.kv.invariants([].into_iter());
}

#[derive(Clone, Debug)]
enum Operation {
    Start { salt: u8, tokens: Vec<TokenId> },
    Plan { which: usize, count: u32 },
    Commit { which: usize },
    Append { which: usize, token: TokenId },
    Release { which: usize },
    Spoil { which: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    let sequence = prop::collection::vec(0..2u32, 1..30);
    prop_oneof![
        4 => (0..2u8, sequence).prop_map(|(salt, tokens)| Operation::Start { salt, tokens }),
        14 => (any::<usize>(), 1..12u32).prop_map(|(which, count)| Operation::Plan { which, count }),
        12 => any::<usize>().prop_map(|which| Operation::Commit { which }),
        4 => (any::<usize>(), 0..2u32).prop_map(|(which, token)| Operation::Append { which, token }),
        3 => any::<usize>().prop_map(|which| Operation::Release { which }),
        1 => any::<usize>().prop_map(|which| Operation::Spoil { which }),
    ]
}

proptest! {
    #![proptest_config(config(512))]

    /// Whatever comes and goes, and however late steps are committed, a request goes on with the state of exactly its
    /// own text.
    #[test]
    fn a_request_goes_on_with_its_own_state(
        groups in prop::collection::vec((2..10u32, 1..5u32, 0..12u32), 1..3),
        other in prop::option::of((20..60u32, 1..5u32, prop::option::of(1..12u32))),
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let states = groups.into_iter().map(|(blocks, block_tokens, apart)| {
            let content = CacheContent::State(apart);
            CacheGroup { content, ..CacheGroup::new(blocks, block_tokens) }
        });
        let other = other.map(|(blocks, block_tokens, window)| {
            let content = window.map_or(CacheContent::Everything, CacheContent::Window);
            CacheGroup { content, ..CacheGroup::new(blocks, block_tokens) }
        });
        let groups: Vec<CacheGroup> = states.chain(other).collect();
        let mut cache = Cache::new(&groups);
        let mut live: Vec<Sequence> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Start { salt, tokens } => {
                    live.extend(cache.start(&salt.to_string(), &tokens));
                }
                _ if live.is_empty() => {}
                Operation::Plan { which, count } => {
                    let which = which % live.len();
                    if live[which].under_way.len() < 2 {
                        cache.plan(&mut live[which], count);
                    }
                }
                Operation::Commit { which } => {
                    let which = which % live.len();
                    cache.commit(&mut live[which]);
                }
                Operation::Append { which, token } => {
                    let which = which % live.len();
                    live[which].tokens.push(token);
                }
                Operation::Release { which } => {
                    let sequence = live.swap_remove(which % live.len());
                    cache.kv.release(sequence.tables);
                }
                Operation::Spoil { which } => {
                    let Sequence { tables, key, tokens, .. } =
                        live.swap_remove(which % live.len());
                    cache.kv.release_spoilt(tables, &key, &tokens);
                }
            }
            cache.kv.invariants(live.iter().map(|sequence| &sequence.tables));
        }
    }
}
