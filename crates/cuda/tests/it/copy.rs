//! Blocks to the host's memory and back.

use cuda::{DeviceBuffer, PinnedBuffer, kernels::BlockCopies};

use crate::support::Bench;

const LAYERS: usize = 3;
const BLOCKS: usize = 7;
const SLOTS: usize = 5;

#[test]
fn blocks_go_to_the_host_and_come_back() {
    let Some(bench) = Bench::new(64, 3) else { return };
    // Strips shorter and longer than what a block of threads copies in one turn.
    for strip_bytes in [16, 6 << 10, 40 << 10] {
        check(&bench, strip_bytes);
    }
}

fn check(bench: &Bench, strip_bytes: usize) {
    let words = strip_bytes / 4;
    let value = |pool: usize, block: usize, word: usize| (pool << 24 | block << 16 | word) as u32;
    let contents = |pool: usize| -> Vec<u32> {
        (0..BLOCKS * words).map(|at| value(pool, at / words, at % words)).collect()
    };
    let pools: Vec<DeviceBuffer<u32>> =
        (0..2 * LAYERS).map(|pool| bench.upload(&contents(pool))).collect();
    let addresses: Vec<u64> = pools.iter().map(|pool| pool.address().into()).collect();
    let addresses = bench.upload(&addresses);
    let host: PinnedBuffer<u8> =
        PinnedBuffer::zeroed(&bench.gpu, SLOTS * 2 * LAYERS * strip_bytes).unwrap();
    let mut list = PinnedBuffer::zeroed(&bench.gpu, 10).unwrap();
    // Out of blocks 6, 0 and 3, and back into 1 and 4; a pair in front is not theirs.
    list.copy_from_slice(&[5, 0, 6, 4, 0, 0, 3, 2, 1, 4]);
    let copy = |first, count, to_host, list: &PinnedBuffer<i32>| {
        let pools = &addresses;
        let copies = BlockCopies { pools, host: &host, strip_bytes, list, first, count, to_host };
        bench.kernels.copy.copy(&bench.stream, &copies).unwrap();
        bench.stream.synchronize().unwrap();
    };
    copy(1, 3, true, &list);
    copy(4, 1, false, &list);
    list[0..2].copy_from_slice(&[4, 0]);
    copy(0, 1, false, &list);
    for (pool, buffer) in pools.iter().enumerate() {
        let mut want = contents(pool);
        for (block, from) in [(1, 6), (4, 0)] {
            let source: Vec<u32> = (0..words).map(|word| value(pool, from, word)).collect();
            want[block * words..][..words].copy_from_slice(&source);
        }
        assert_eq!(bench.download(buffer), want, "pool {pool}, {strip_bytes} bytes a strip");
    }
    // What nothing was copied to.
    for slot in [1, 3] {
        let slot_bytes = 2 * LAYERS * strip_bytes;
        assert!(host[slot * slot_bytes..][..slot_bytes].iter().all(|byte| *byte == 0), "{slot}");
    }
}
