//! The manager and its pools against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::tests::config;

fn group(blocks: u32, block_tokens: u32) -> CacheGroup {
    CacheGroup::new(blocks, block_tokens)
}

#[test]
fn groups_without_room_are_refused_with_both_numbers() {
    let error = KvManager::new(&[group(4, 16), group(0, 16)], true).unwrap_err();
    assert_eq!(error, Error::EmptyGroup { group: 1, blocks: 0, block_tokens: 16 });
    assert!(KvManager::new(&[group(4, 0)], true).is_err());
    let windowed = |window| CacheGroup { content: CacheContent::Window(window), ..group(4, 16) };
    let with_host = CacheGroup { host_blocks: 9, ..group(4, 16) };
    let error = |groups: &[CacheGroup]| KvManager::new(groups, true).unwrap_err();
    assert_eq!(error(&[windowed(0)]), Error::EmptyWindow { group: 0 });
    let beside = Error::HostBesideGaps { group: 1, host_blocks: 9 };
    assert_eq!(error(&[windowed(5), with_host]), beside);
    assert!(KvManager::new(&[], true).unwrap().pools().is_empty());
}

#[test]
fn a_shortage_in_one_group_takes_nothing_from_the_others() {
    let mut kv = KvManager::new(&[group(8, 16), group(2, 16)], true).unwrap();
    let mut tables = kv.tables();
    kv.grow(&mut tables, 17).unwrap();
    let shortage = kv.grow(&mut tables, 33).unwrap_err();
    assert_eq!(shortage, Shortage { group: 1, wanted: 1, free: 0 });
    assert_eq!((kv.pools()[0].free(), kv.pools()[1].free()), (6, 0));
    kv.invariants([&tables].into_iter());
    kv.release(tables);
    assert_eq!(kv.blocks_used(), 0);
}

#[test]
fn covering_is_exact() {
    let mut kv = KvManager::new(&[group(8, 4), group(8, 3)], true).unwrap();
    let mut tables = kv.tables();
    kv.grow(&mut tables, 12).unwrap();
    let mut lengths =
        |positions| kv.hand_out(&mut tables, 0..positions).iter().map(Vec::len).collect();
    let (four, five, twelve): (Vec<_>, Vec<_>, Vec<_>) = (lengths(4), lengths(5), lengths(12));
    assert_eq!((four, five, twelve), (vec![1, 2], vec![2, 2], vec![3, 4]));
    kv.release(tables);
}

#[test]
#[should_panic(expected = "is released but free")]
fn a_block_cannot_be_freed_twice() {
    let mut pool = BlockPool::new(&group(2, 16));
    let block = pool.allocate().unwrap();
    pool.release(block);
    pool.release(block);
}

#[derive(Clone, Debug)]
enum Operation {
    Start,
    Grow { which: usize, positions: u32 },
    Release { which: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => Just(Operation::Start),
        5 => (any::<usize>(), 0..60u32).prop_map(|(which, positions)| Operation::Grow { which, positions }),
        2 => any::<usize>().prop_map(|which| Operation::Release { which }),
    ]
}

proptest! {
    #![proptest_config(config(256))]

    /// The model counts positions only: a request holds the blocks that its positions round up to.
    #[test]
    fn tables_behave_as_counted_positions(
        groups in prop::collection::vec((1..12u32, 1..9u32), 1..4),
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let groups: Vec<CacheGroup> = groups.into_iter().map(|(b, t)| group(b, t)).collect();
        let mut kv = KvManager::new(&groups, true).unwrap();
        let mut live: Vec<(BlockTables, u32)> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Start => live.push((kv.tables(), 0)),
                Operation::Grow { which, positions } if !live.is_empty() => {
                    let which = which % live.len();
                    let before: Vec<Vec<BlockId>> =
                        live[which].0.groups().iter().map(|t| t.blocks().to_vec()).collect();
                    let held = |except: usize, tokens: u32| -> u32 {
                        let others = live.iter().enumerate().filter(|(index, _)| *index != except);
                        others.map(|(_, (_, positions))| positions.div_ceil(tokens)).sum()
                    };
                    let wanted = positions.max(live[which].1);
                    let fits = groups.iter().all(|g| {
                        held(which, g.block_tokens) + wanted.div_ceil(g.block_tokens) <= g.blocks
                    });
                    let (tables, counted) = &mut live[which];
                    prop_assert_eq!(kv.grow(tables, positions).is_ok(), fits);
                    if fits {
                        *counted = wanted;
                    }
                    for (table, before) in tables.groups().iter().zip(&before) {
                        prop_assert!(table.blocks().starts_with(before), "tables only append");
                    }
                }
                Operation::Release { which } if !live.is_empty() => {
                    let (tables, _) = live.swap_remove(which % live.len());
                    kv.release(tables);
                }
                Operation::Grow { .. } | Operation::Release { .. } => {}
            }
            kv.invariants(live.iter().map(|(tables, _)| tables));
            for (index, group) in groups.iter().enumerate() {
                let mut owned = BTreeSet::new();
                for (tables, positions) in &live {
                    let blocks = tables.groups()[index].blocks();
                    prop_assert_eq!(blocks.len() as u32, positions.div_ceil(group.block_tokens));
                    prop_assert!(blocks.iter().all(|block| owned.insert(*block)), "one holder each");
                }
            }
        }
        for (tables, _) in live {
            kv.release(tables);
        }
        prop_assert_eq!(kv.blocks_used(), 0);
    }

    /// Sharing: a block is free exactly when as many holders let go as there were.
    #[test]
    fn holders_are_counted(choices in prop::collection::vec((0..3u8, any::<usize>()), 1..200)) {
        let mut pool = BlockPool::new(&group(5, 16));
        let mut holders: BTreeMap<BlockId, u32> = BTreeMap::new();
        for (choice, which) in choices {
            let held: Vec<BlockId> = holders.keys().copied().collect();
            match choice {
                0 => {
                    let block = pool.allocate();
                    prop_assert_eq!(block.is_none(), held.len() == 5);
                    prop_assert!(block.is_none_or(|block| holders.insert(block, 1).is_none()));
                }
                _ if held.is_empty() => {}
                1 => {
                    let block = held[which % held.len()];
                    pool.share(block);
                    *holders.get_mut(&block).unwrap() += 1;
                }
                _ => {
                    let block = held[which % held.len()];
                    pool.release(block);
                    let count = holders.get_mut(&block).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        holders.remove(&block);
                    }
                }
            }
            pool.invariants(holders.iter().flat_map(|(id, n)| std::iter::repeat_n(*id, *n as usize)));
            prop_assert_eq!(pool.free() as usize, 5 - holders.len());
        }
    }
}
