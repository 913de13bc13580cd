//! What must always hold.

use crate::Scheduler;

impl Scheduler {
    /// Checks what must always hold between calls. For tests and simulation.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn invariants(&self) {
        self.queue.invariants();
        self.slots.invariants();
        self.kv.invariants(self.slots.iter().map(|(_, running)| &running.tables));
        let suspects = self.slots.iter().filter(|(_, r)| r.sequence.probation.is_some()).count();
        assert!(suspects <= 1, "{suspects} requests on probation run together");
        for (slot, running) in self.slots.iter() {
            let (id, sequence) = (running.ticket.id, &running.sequence);
            assert!(running.computed < sequence.len(), "{id} has nothing left to compute");
            assert!(sequence.generated() < sequence.tokens_max, "{id} in {slot} is complete");
            assert!(sequence.started.is_some(), "{id} runs but never started");
            for (pool, table) in self.kv.pools().iter().zip(running.tables.groups()) {
                let blocks = table.blocks().len() as u32;
                // All tokens but the one drawn last, whose block comes with its position.
                assert!(blocks >= pool.blocks_for(sequence.len() - 1), "{id} lacks blocks");
                assert!(blocks <= pool.blocks_for(sequence.len()), "{id} holds blocks for nothing");
            }
        }
        for (ticket, sequence) in self.queue.iter() {
            assert!(self.slots.of(ticket.id).is_none(), "{} waits and runs", ticket.id);
            assert_eq!(sequence.started.is_some(), ticket.returned, "{}", ticket.id);
            assert!(sequence.generated() < sequence.tokens_max, "{} waits complete", ticket.id);
        }
        for item in self.flight.iter().flat_map(|flight| &flight.items) {
            let running = self.slots.get(item.slot).filter(|r| r.ticket.id == item.request);
            if let Some(running) = running {
                assert_eq!(item.positions.start, running.computed, "{} skips", item.request);
                assert!(
                    item.positions.end <= running.sequence.len(),
                    "{} runs ahead",
                    item.request
                );
            }
        }
    }
}
