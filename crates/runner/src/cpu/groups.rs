//! Cache groups: layers that see equally far back hold the same blocks of a request. Which groups there are, and what
//! part of the KV cache's memory each of them gets.

use types::{CacheContent, CacheGroup};

/// The cache groups of a model, without blocks yet.
pub(super) struct Groups {
    /// By group, how far its layers see, where that is not everything.
    windows: Vec<Option<u32>>,
    /// By layer, its group.
    pub(super) of_layer: Vec<usize>,
}

/// What the blocks of groups are for.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    /// Most requests at once.
    pub(super) slots: u32,
    /// Most positions of each.
    pub(super) context: u32,
    /// Most positions in a step, over all requests.
    pub(super) step: u32,
}

impl Groups {
    /// The groups of layers with these windows, where requests have at most `context_max` positions: a window that
    /// shows all of them is none.
    pub(super) fn new(windows: &[Option<usize>], context_max: u32) -> Self {
        let mut different: Vec<Option<u32>> = Vec::new();
        let of_layer = windows.iter().map(|window| {
            let window = window.and_then(|window| u32::try_from(window).ok());
            let window = window.filter(|window| *window < context_max);
            let known = different.iter().position(|other| *other == window);
            known.unwrap_or_else(|| {
                different.push(window);
                different.len() - 1
            })
        });
        Self { of_layer: of_layer.collect(), windows: different }
    }

    /// Whether some layers do not see everything.
    pub(super) fn have_windows(&self) -> bool {
        self.windows.iter().any(Option::is_some)
    }

    /// Bytes of one block of each group, where each layer's part of one has `layer_bytes`.
    fn block_bytes(&self, layer_bytes: u64) -> Vec<u64> {
        let layers = |group| self.of_layer.iter().filter(|of_layer| **of_layer == group).count();
        (0..self.windows.len()).map(|group| layers(group) as u64 * layer_bytes).collect()
    }

    /// The groups with `budget_bytes` divided among their blocks of `block_tokens` positions, of which cached ones are
    /// kept up to `kept_bytes`. Each layer's part of a block has `layer_bytes`. Nothing where there is not a block for
    /// each group.
    ///
    /// All groups get as many blocks, so that they hold the same requests, up to where a window has enough: what
    /// all requests see, and as much again for what they leave to the prefix cache. Groups that keep everything get
    /// what that leaves. No group gets more than all slots can fill.
    pub(super) fn divide(
        &self,
        demand: Demand,
        block_tokens: u32,
        layer_bytes: u64,
        [budget_bytes, kept_bytes]: [u64; 2],
    ) -> Option<Vec<CacheGroup>> {
        let block_bytes = self.block_bytes(layer_bytes);
        let group = |window: &Option<u32>| CacheGroup {
            content: window.map_or(CacheContent::Everything, CacheContent::Window),
            ..CacheGroup::new(u32::MAX, block_tokens)
        };
        let groups: Vec<CacheGroup> = self.windows.iter().map(group).collect();
        let Demand { slots, context, step } = demand;
        // Places of rows are numbers of 32 bits.
        let blocks_max = u64::from(u32::MAX / block_tokens);
        let all = |group: &CacheGroup| {
            (u64::from(slots) * u64::from(group.blocks_for(context))).min(blocks_max)
        };
        let enough = |group: &CacheGroup| {
            let seen = u64::from(slots) * u64::from(group.blocks_of_one(context));
            let begun = u64::from(group.blocks_for(step));
            let of_use = if group.window().is_some() { 2 * seen + begun } else { seen };
            of_use.min(all(group))
        };
        let enough: Vec<u64> = groups.iter().map(enough).collect();
        let mut blocks = fill(budget_bytes, &block_bytes, &enough);
        let taken: u64 =
            blocks.iter().zip(&block_bytes).map(|(blocks, bytes)| blocks * bytes).sum();
        let rest: Vec<u64> =
            groups.iter().zip(&blocks).map(|(group, blocks)| all(group) - blocks).collect();
        let more = fill(budget_bytes - taken, &block_bytes, &rest);
        blocks.iter_mut().zip(more).for_each(|(blocks, more)| *blocks += more);
        let kept = fill(kept_bytes, &block_bytes, &blocks);
        let filled = groups.into_iter().zip(blocks.iter().zip(kept));
        blocks.iter().all(|blocks| *blocks > 0).then(|| {
            filled
                .map(|(group, (blocks, kept))| CacheGroup {
                    blocks: *blocks as u32,
                    blocks_kept: kept as u32,
                    ..group
                })
                .collect()
        })
    }
}

/// How many blocks of each size go into so many bytes: as many of each, but none more than its most.
fn fill(bytes: u64, block_bytes: &[u64], most: &[u64]) -> Vec<u64> {
    let mut smallest_first: Vec<usize> = (0..most.len()).collect();
    smallest_first.sort_by_key(|group| most[*group]);
    let mut blocks = vec![0; most.len()];
    let (mut bytes_left, mut of_one_each) = (bytes, block_bytes.iter().sum::<u64>());
    for group in smallest_first {
        blocks[group] = (bytes_left / of_one_each).min(most[group]);
        bytes_left -= blocks[group] * block_bytes[group];
        of_one_each -= block_bytes[group];
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand { slots: 4, context: 1000, step: 64 };

    /// Blocks of each group where a layer's part of a block has 10 bytes.
    fn divided(windows: &[Option<usize>], budget_bytes: u64) -> Option<Vec<u32>> {
        let groups = Groups::new(windows, DEMAND.context);
        let divided = groups.divide(DEMAND, 16, 10, [budget_bytes, u64::MAX])?;
        assert!(divided.iter().all(|group| group.blocks_kept == group.blocks));
        Some(divided.iter().map(|group| group.blocks).collect())
    }

    #[test]
    fn layers_that_see_equally_far_form_a_group() {
        let groups = Groups::new(&[Some(8), None, Some(8), Some(2000), Some(9)], DEMAND.context);
        assert_eq!(groups.of_layer, [0, 1, 0, 1, 2], "a window beyond the context is none");
        let divided = groups.divide(DEMAND, 16, 10, [5000, 0]).expect("there is a block for each");
        let windows: Vec<_> = divided.iter().map(CacheGroup::window).collect();
        assert_eq!(windows, [Some(8), None, Some(9)]);
    }

    #[test]
    fn groups_get_as_many_blocks_each_until_a_window_has_enough() {
        let mixed = [Some(64), Some(64), Some(64), None];
        assert_eq!(divided(&mixed, 39), None);
        assert_eq!(divided(&mixed, 400), Some(vec![10, 10]));
        // 5 blocks for each of 4 windows, twice, and 4 for a step.
        assert_eq!(divided(&mixed, 2000), Some(vec![44, 68]));
        // All slots together fill 252.
        assert_eq!(divided(&mixed, 44 * 30 + 2520), Some(vec![44, 252]));
        assert_eq!(divided(&mixed, 44 * 30 + 2520 + 400), Some(vec![57, 252]));
        assert_eq!(divided(&mixed, u64::MAX), Some(vec![252, 252]));
    }

    #[test]
    fn a_group_alone_gets_all_that_it_can_use() {
        for window in [None, Some(64)] {
            assert_eq!(divided(&[window; 2], 1999), Some(vec![99]));
            assert_eq!(divided(&[window; 2], u64::MAX), Some(vec![252]));
        }
    }

    #[test]
    fn what_is_kept_is_divided_in_the_same_way() {
        let groups = Groups::new(&[Some(64), None], DEMAND.context);
        let divided = groups.divide(DEMAND, 16, 10, [2000, 1000]).expect("there is room");
        let kept: Vec<_> = divided.iter().map(|group| (group.blocks, group.blocks_kept)).collect();
        assert_eq!(kept, [(44, 44), (156, 56)]);
    }
}
