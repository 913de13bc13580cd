//! How many blocks the running requests will come to need, if their answers are as long as others were.

use kv::BlockPool;

/// A request that grows.
#[derive(Clone, Copy, Debug)]
struct Growing {
    /// Tokens it has, and holds blocks for.
    len: u32,
    /// Tokens that it is expected to grow by before it ends and lets go of all.
    rest: u32,
}

/// The requests that run, as they are expected to grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth {
    /// Those that end first, first.
    requests: Vec<Growing>,
}

impl Growth {
    pub(crate) fn of(requests: impl Iterator<Item = (u32, u32)>) -> Self {
        let requests = requests.map(|(len, rest)| Growing { len, rest });
        let mut requests: Vec<Growing> = requests.collect();
        requests.sort_unstable_by_key(|request| request.rest);
        Self { requests }
    }

    /// One more request.
    pub(crate) fn add(&mut self, len: u32, rest: u32) {
        let place = self.requests.partition_point(|request| request.rest < rest);
        self.requests.insert(place, Growing { len, rest });
    }

    /// With one more.
    pub(crate) fn with(&self, len: u32, rest: u32) -> Self {
        let mut growth = self.clone();
        growth.add(len, rest);
        growth
    }

    /// The most blocks of a pool in use at any time to come, where `used` are now: each request grows by a token a
    /// step, and those that end give back what they have. Where not everything is kept, each comes to hold all that it
    /// needs.
    pub(crate) fn peak_blocks(&self, pool: &BlockPool, used: u32) -> u32 {
        if !pool.group().keeps_everything() {
            let of_one = |request: &Growing| pool.group().blocks_of_one(request.len + request.rest);
            return self.requests.iter().map(of_one).sum::<u32>().max(used);
        }
        let used_tokens = i64::from(used) * i64::from(pool.block_tokens());
        let (mut given_back, mut peak) = (0_i64, used_tokens);
        for (ended, request) in self.requests.iter().enumerate() {
            let growing = (self.requests.len() - ended) as i64;
            peak = peak.max(used_tokens + growing * i64::from(request.rest) - given_back);
            given_back += i64::from(request.len);
        }
        let blocks = (peak as u64).div_ceil(u64::from(pool.block_tokens()));
        blocks.try_into().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use types::{CacheContent, CacheGroup};

    use super::*;

    fn peak(requests: &[(u32, u32)], used: u32) -> u32 {
        let pool = BlockPool::new(&CacheGroup::new(1000, 10));
        Growth::of(requests.iter().copied()).peak_blocks(&pool, used)
    }

    #[test]
    fn requests_that_end_make_room_for_those_that_grow() {
        assert_eq!(peak(&[], 5), 5);
        assert_eq!(peak(&[(100, 50)], 10), 15);
        // Together they grow by 10 each, then one gives back 100 and the other goes on.
        assert_eq!(peak(&[(100, 200), (100, 10)], 20), 30);
        assert_eq!(peak(&[(100, 90), (100, 10)], 20), 22);
    }

    #[test]
    fn a_window_bounds_what_each_comes_to_hold() {
        let group = CacheGroup { content: CacheContent::Window(30), ..CacheGroup::new(1000, 10) };
        let pool = BlockPool::new(&group);
        let growth = Growth::of([(100, 200), (5, 10), (10, 0)].into_iter());
        assert_eq!(growth.peak_blocks(&pool, 2), 4 + 2 + 1);
        assert_eq!(growth.peak_blocks(&pool, 9), 9);
    }

    #[test]
    fn of_a_state_each_holds_one_block() {
        let group = CacheGroup { content: CacheContent::State(30), ..CacheGroup::new(1000, 10) };
        let growth = Growth::of([(100, 200), (5, 10), (10, 0)].into_iter());
        assert_eq!(growth.peak_blocks(&BlockPool::new(&group), 2), 3);
    }

    #[test]
    fn an_added_request_counts_like_one_that_was_there() {
        let pool = BlockPool::new(&CacheGroup::new(1000, 10));
        let mut growth = Growth::of([(50, 70), (20, 10)].into_iter());
        growth.add(30, 30);
        assert_eq!(growth.peak_blocks(&pool, 10), peak(&[(50, 70), (30, 30), (20, 10)], 10));
    }
}
