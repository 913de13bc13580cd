//! What must always hold.

use std::collections::BTreeMap;

use crate::{Scheduler, sequence::Running};

impl Scheduler {
    /// Checks what must always hold between calls. For tests and simulation.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn invariants(&self) {
        self.queue.invariants();
        self.slots.invariants();
        let copies = (self.kv.copies(), self.kv.state_copies());
        assert_eq!(copies, (0, 0), "copies are decided on with a plan, and in it");
        self.kv.invariants(self.slots.iter().map(|(_, running)| &running.tables));
        let suspects = self.slots.iter().filter(|(_, r)| r.sequence.probation.is_some()).count();
        assert!(suspects <= 1, "{suspects} requests on probation run together");
        for (slot, running) in self.slots.iter() {
            let (id, sequence) = (running.ticket.id, &running.sequence);
            assert!(running.computed <= running.planned, "{id} has more computed than planned");
            assert!(running.planned <= running.expected_len(), "{id} runs ahead");
            assert!(running.on_host_end < sequence.len(), "{id} finds more than it may");
            let complete = sequence.generated() + running.drawing;
            assert!(complete <= sequence.tokens_max, "{id} draws more than its last token");
            assert!(sequence.generated() < sequence.tokens_max, "{id} in {slot} is complete");
            assert!(sequence.started.is_some(), "{id} runs but never started");
            for (pool, table) in self.kv.pools().iter().zip(running.tables.groups()) {
                let blocks = table.blocks().len() as u32;
                // All tokens but the one drawn last, whose block comes with its position, as all do where not
                // everything is kept.
                let is_whole = pool.group().keeps_everything();
                let whole = if is_whole { sequence.len() - 1 } else { 0 };
                let needed = running.planned.max(whole);
                assert!(blocks >= pool.blocks_for(needed), "{id} lacks blocks");
                let useful = running.planned.max(sequence.len()) + running.drafted;
                assert!(blocks <= pool.blocks_for(useful), "{id} holds blocks for nothing");
            }
        }
        for (ticket, sequence) in self.queue.iter() {
            assert!(self.slots.of(ticket.id).is_none(), "{} waits and runs", ticket.id);
            assert_eq!(sequence.started.is_some(), ticket.returned, "{}", ticket.id);
            assert!(sequence.generated() < sequence.tokens_max, "{} waits complete", ticket.id);
        }
        assert!(self.flights.len() <= self.flights_max, "more steps under way than allowed");
        let mut drawing = BTreeMap::new();
        let mut reached = BTreeMap::new();
        for item in self.flights.iter().flat_map(|flight| &flight.items) {
            let id = item.request;
            assert!(
                item.draft.is_empty() || self.flights_max == 1,
                "{id} is drafted into the unknown"
            );
            let known_end = item.positions.end - item.draft.len() as u32;
            if let Some(end) = reached.insert(id, known_end) {
                assert_eq!(item.positions.start, end, "{id} skips between two steps");
            }
            *drawing.entry(id).or_insert(0) += u32::from(item.sample);
        }
        for (_, Running { ticket, planned, drawing: counted, .. }) in self.slots.iter() {
            let under_way = reached.get(&ticket.id).copied().unwrap_or(*planned);
            assert_eq!(*planned, under_way, "{} is not where its last step ends", ticket.id);
            assert_eq!(*counted, drawing.remove(&ticket.id).unwrap_or(0), "{}", ticket.id);
        }
    }
}
