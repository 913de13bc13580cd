//! Weights that a kernel brings into the second-level cache for a product further on.

use super::products::{Matrix, TILE_ROWS, tile_bytes};
use crate::{Address, DeviceBuffer, Gpu};

/// What to bring, as `common.cuh` declares it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Prefetch {
    address: Address,
    second: Address,
    positions: Address,
    position_count: i32,
    positions_max: i32,
    rows: i32,
    row_bytes: i32,
    prefix_bytes: i32,
    unused: i32,
}

/// How the product that is prefetched for goes through its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Some outputs after others, all inputs of each: products of few rows.
    ByOutput,
    /// The first inputs of all outputs first: products of many rows.
    ByInput,
}

impl Prefetch {
    /// Nothing.
    pub const NONE: Self = Self {
        address: Address::NONE,
        second: Address::NONE,
        positions: Address::NONE,
        position_count: 0,
        positions_max: 0,
        rows: 0,
        row_bytes: 0,
        prefix_bytes: 0,
        unused: 0,
    };

    /// What a product with a matrix of this shape reads first, as far as it stays in the cache. With `gated`, the
    /// second half of its rows is read along with the first.
    ///
    /// # Panics
    /// If the matrix is smaller.
    pub fn of(
        gpu: &Gpu,
        matrix: &Matrix,
        [rows, columns]: [usize; 2],
        (order, gated): (Order, bool),
    ) -> Self {
        assert!(matrix.holds(rows, columns), "{rows} rows of {columns}");
        let properties = gpu.properties();
        let halves = if gated { 2 } else { 1 };
        // Some of the cache is for what else is read meanwhile.
        let budget = properties.cache_bytes as usize / 3 / halves;
        let (units, unit_bytes, units_at_once) = match matrix.layout() {
            None => (rows / halves, 2 * columns, TILE_ROWS * properties.multiprocessors as usize),
            Some(layout) => (
                (rows / halves).div_ceil(TILE_ROWS),
                tile_bytes(layout, columns).0,
                properties.multiprocessors as usize,
            ),
        };
        let first = match order {
            Order::ByOutput => units.min(units_at_once.max(budget / unit_bytes)),
            Order::ByInput => units,
        };
        let prefix_bytes = (budget / first).min(unit_bytes) / 128 * 128;
        if prefix_bytes == 0 {
            return Self::NONE;
        }
        let address = matrix.address();
        Self {
            address,
            second: if gated { address.plus(units * unit_bytes) } else { Address::NONE },
            rows: first as i32,
            row_bytes: unit_bytes as i32,
            prefix_bytes: prefix_bytes as i32,
            ..Self::NONE
        }
    }

    /// The same, but nothing where the sum of positions is above a limit.
    #[must_use]
    pub fn unless_above(self, positions_max: usize, positions: &DeviceBuffer<i32>) -> Self {
        Self {
            positions: positions.address(),
            position_count: positions.len() as i32,
            positions_max: i32::try_from(positions_max).unwrap_or(i32::MAX),
            ..self
        }
    }
}
