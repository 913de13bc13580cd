//! The queue against a naive model: a vector that is searched.

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

fn class(class: i32) -> Place {
    Place { class, tag: 0 }
}

#[test]
fn classes_go_first_and_arrival_decides_within() {
    let mut queue = WaitingQueue::new(10);
    for (id, priority) in [(1, 0), (2, -1), (3, 0), (4, 5), (5, -1)] {
        queue.push(RequestId(id), class(priority), Duration::ZERO, ());
    }
    let order: Vec<u64> =
        std::iter::from_fn(|| queue.take_first()).map(|(ticket, ())| ticket.id.0).collect();
    assert_eq!(order, [2, 5, 1, 3, 4]);
}

#[test]
fn a_returned_request_stands_before_later_ones_of_its_class_only() {
    let mut queue = WaitingQueue::new(10);
    queue.push(RequestId(1), class(0), Duration::ZERO, "first");
    let (ticket, body) = queue.take_first().unwrap();
    queue.push(RequestId(2), class(0), Duration::ZERO, "second");
    queue.push(RequestId(3), class(-1), Duration::ZERO, "urgent");
    queue.put_back(ticket, body);
    queue.invariants();
    let order: Vec<&str> = queue.iter().map(|(_, body)| *body).collect();
    assert_eq!(order, ["urgent", "first", "second"]);
}

#[test]
fn a_refusal_names_the_limit_and_the_wait() {
    let fault = Fault::from(QueueFull { limit: 2, wait: Duration::from_millis(1500) });
    assert_eq!((fault.kind, fault.retry_after_ms), (FaultKind::Overloaded, Some(1500)));
    assert!(fault.message.contains("2 requests wait"), "{}", fault.message);
}

#[test]
#[should_panic(expected = "the caller saw room")]
fn a_full_queue_takes_nobody() {
    let mut queue = WaitingQueue::new(1);
    queue.push(RequestId(1), class(0), Duration::ZERO, ());
    assert!(queue.is_full());
    queue.push(RequestId(2), class(-9), Duration::ZERO, ());
}

#[test]
fn returned_requests_do_not_count_against_the_limit() {
    let mut queue = WaitingQueue::new(1);
    queue.push(RequestId(1), class(0), Duration::ZERO, ());
    let (ticket, ()) = queue.take_first().unwrap();
    queue.push(RequestId(2), class(0), Duration::ZERO, ());
    queue.put_back(ticket, ());
    assert_eq!((queue.len(), queue.new_len()), (2, 1));
    queue.remove(RequestId(2)).unwrap();
    queue.push(RequestId(3), class(0), Duration::ZERO, ());
    queue.invariants();
}

#[derive(Clone, Debug)]
enum Operation {
    Push { priority: i32 },
    TakeFirst,
    PutBack { which: usize },
    Remove { which: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (-2..3i32).prop_map(|priority| Operation::Push { priority }),
        3 => Just(Operation::TakeFirst),
        2 => any::<usize>().prop_map(|which| Operation::PutBack { which }),
        1 => any::<usize>().prop_map(|which| Operation::Remove { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_as_a_sorted_list(operations in prop::collection::vec(operation(), 1..200)) {
        let limit = 7;
        let mut queue = WaitingQueue::new(limit);
        let mut waiting: Vec<(i32, u64, bool)> = Vec::new();
        let mut taken: Vec<Ticket> = Vec::new();
        let mut next = 0;
        for operation in operations {
            match operation {
                Operation::Push { priority } => {
                    let full = waiting.iter().filter(|(_, _, returned)| !returned).count() >= limit;
                    prop_assert_eq!(queue.is_full(), full);
                    if !full {
                        queue.push(RequestId(next), class(priority), Duration::ZERO, next);
                        waiting.push((priority, next, false));
                        next += 1;
                    }
                }
                Operation::TakeFirst => {
                    let first = waiting.iter().min().copied();
                    let got = queue.take_first();
                    prop_assert_eq!(got.map(|(_, body)| body), first.map(|(_, id, _)| id));
                    taken.extend(got.map(|(ticket, _)| ticket));
                    waiting.retain(|entry| Some(*entry) != first);
                }
                Operation::PutBack { which } if !taken.is_empty() => {
                    let ticket = taken.swap_remove(which % taken.len());
                    waiting.push((ticket.rank.place.class, ticket.id.0, true));
                    queue.put_back(ticket, ticket.id.0);
                }
                Operation::Remove { which } if !waiting.is_empty() => {
                    let (_, id, _) = waiting.swap_remove(which % waiting.len());
                    prop_assert_eq!(queue.remove(RequestId(id)).map(|(_, body)| body), Some(id));
                    prop_assert!(queue.remove(RequestId(id)).is_none());
                }
                Operation::PutBack { .. } | Operation::Remove { .. } => {}
            }
            queue.invariants();
            prop_assert_eq!(queue.len(), waiting.len());
        }
    }
}
