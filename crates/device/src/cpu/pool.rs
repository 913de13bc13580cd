//! A fixed set of threads that run one task together, over and over, with little delay in between.
//!
//! A step of a model is some hundred short tasks. Between two of them the threads spin for some microseconds; when
//! no task comes they sleep, so that an idle server uses no CPU. Who does what is decided by worker number alone,
//! never by who is faster, so that results do not depend on timing.

use std::{
    cell::UnsafeCell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

use super::DisjointSlice;

/// Looks at what is waited for before the core is offered to others at each further look, some microseconds: the other
/// workers are usually done by then, and where they are not, they may be waiting for this very core.
const SPINS_BEFORE_YIELD: u32 = 300;
/// Further looks before a worker sleeps, some tens of microseconds: longer than the gap between two kernels of a step.
const YIELDS_BEFORE_SLEEP: u32 = 100;

/// Nanoseconds of work below which handing it out costs more than it saves: some barriers' worth.
const WORTH_SPREADING: usize = 2_000;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// Counts tasks; a worker runs a task when it sees a new number.
    round: AtomicU64,
    /// The task of this round.
    task: UnsafeCell<Option<*const Task<'static>>>,
    /// Workers that have not finished this round.
    unfinished: AtomicUsize,
    stop: AtomicBool,
    /// The first panic of this round.
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

// SAFETY: `task` is written only by the owner of the pool while no worker runs a task (`unfinished` is 0), and read by
// workers only after they have seen the new round (release, acquire).
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `task` is to a `Sync` closure and is only used during `ThreadPool::run`, which outlives it.
unsafe impl Send for Shared {}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

/// A fixed set of threads. The thread that calls [`ThreadPool::run`] is worker 0.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Keeps two callers from running tasks at once.
    running: Mutex<()>,
}

impl ThreadPool {
    /// A pool of `threads` workers, the caller's thread included; at least one.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            round: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            unfinished: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..threads.max(1))
            .map(|index| {
                let asleep = Arc::new(AtomicBool::new(false));
                let handle = thread::Builder::new()
                    .name(format!("cpu-{index}"))
                    .spawn({
                        let (shared, asleep) = (Arc::clone(&shared), Arc::clone(&asleep));
                        move || work(&shared, &asleep, index)
                    })
                    .expect("the system can start a thread");
                Worker { thread: handle.thread().clone(), asleep, handle: Some(handle) }
            })
            .collect();
        Self { shared, workers, running: Mutex::new(()) }
    }

    /// How many workers run each task.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(worker)` once on every worker, and returns when all are done.
    ///
    /// # Panics
    /// If a worker's task panics, with its payload, after all workers are done. The pool stays usable.
    pub fn run(&self, task: &Task<'_>) {
        // A panic of an earlier task poisons the lock but leaves nothing half done.
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.workers.is_empty() {
            return task(0);
        }
        let pointer: *const Task<'_> = task;
        // SAFETY: only the lifetime changes. Workers use the pointer during this call alone, because it does not return
        // before all of them have finished.
        let pointer =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(pointer) };
        // SAFETY: no worker reads `task` now: all have finished the round before, and the new one is not announced.
        unsafe { *self.shared.task.get() = Some(pointer) };
        self.shared.unfinished.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent, against the worker's own store of `asleep` and load of `round`: either the worker
        // sees the new round, or this thread sees it asleep.
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| task(0)));
        wait_until(|| self.shared.unfinished.load(Ordering::Acquire) == 0);
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = own.err().or(panic) {
            resume_unwind(payload);
        }
    }

    /// Runs `task` on parts of `0..items`, each a multiple of `unit` long except the last: on all workers where the
    /// work is worth their waking, else on the caller's thread alone. `item_cost` is what one item takes, in
    /// nanoseconds or so.
    pub fn spread(
        &self,
        items: usize,
        unit: usize,
        item_cost: usize,
        task: &(dyn Fn(Range<usize>) + Sync),
    ) {
        if items <= unit || items * item_cost < WORTH_SPREADING {
            return task(0..items);
        }
        self.run(&|worker| {
            let units = partition(items.div_ceil(unit), self.threads(), worker);
            task((units.start * unit).min(items)..(units.end * unit).min(items));
        });
    }

    /// Runs `function(index, item)` for every item, spread over the workers in contiguous parts.
    pub fn for_each<T: Send>(&self, items: &mut [T], function: impl Fn(usize, &mut T) + Sync) {
        let len = items.len();
        let items = DisjointSlice::new(items);
        self.run(&|worker| {
            let range = partition(len, self.threads(), worker);
            // SAFETY: the ranges of different workers do not overlap.
            let part = unsafe { items.part(range.clone()) };
            for (index, item) in range.zip(part) {
                function(index, item);
            }
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker catches the panics of its tasks, so that joining cannot fail.
                let _ = handle.join();
            }
        }
    }
}

fn work(shared: &Shared, asleep: &AtomicBool, index: usize) {
    let mut seen = 0;
    loop {
        wait_for_round(shared, asleep, seen);
        seen += 1;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: this round's task was written before the round was announced, which this thread has seen.
        let task = unsafe { (*shared.task.get()).expect("a round has a task") };
        // SAFETY: the closure lives until `run` returns, which waits for this worker.
        let task = unsafe { &*task };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index))) {
            let mut first = shared.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(payload);
        }
        shared.unfinished.fetch_sub(1, Ordering::Release);
    }
}

/// Waits, awake at first and asleep later, until the round is not `seen` any more.
fn wait_for_round(shared: &Shared, asleep: &AtomicBool, seen: u64) {
    for look in 0..SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP {
        if shared.round.load(Ordering::Acquire) != seen {
            return;
        }
        pause(look);
    }
    asleep.store(true, Ordering::SeqCst);
    while shared.round.load(Ordering::SeqCst) == seen {
        thread::park();
    }
    asleep.store(false, Ordering::Relaxed);
}

fn wait_until(done: impl Fn() -> bool) {
    let mut look = 0;
    while !done() {
        pause(look);
        look = look.saturating_add(1);
    }
}

/// What a waiting thread does after its first, second, third look.
fn pause(look: u32) {
    if look < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

/// The part of `0..total` that falls to `index` of `parts`: contiguous, in order, and at most one larger than another.
pub fn partition(total: usize, parts: usize, index: usize) -> Range<usize> {
    let (each, larger) = (total / parts, total % parts);
    let start = index * each + index.min(larger);
    start..start + each + usize::from(index < larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_cover_everything_once() {
        for total in 0..40 {
            for parts in 1..9 {
                let mut next = 0;
                for index in 0..parts {
                    let range = partition(total, parts, index);
                    assert_eq!(range.start, next);
                    next = range.end;
                }
                assert_eq!(next, total);
            }
        }
    }

    #[test]
    fn every_worker_runs_every_task_once() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads);
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..2_000 {
                pool.run(&|worker| {
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 2_000));
        }
    }

    #[test]
    fn sleepers_wake_for_the_next_task() {
        let pool = ThreadPool::new(3);
        let mut items = vec![0_u32; 100];
        for round in 1..=3 {
            while !pool.workers.iter().all(|worker| worker.asleep.load(Ordering::SeqCst)) {
                thread::yield_now();
            }
            pool.for_each(&mut items, |index, item| *item += u32::try_from(index).unwrap());
            assert!((0..100).all(|index| items[index as usize] == index * round));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(2);
        for culprit in [0, 1] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker| assert!(worker != culprit, "worker {worker} fails"));
            }));
            assert!(result.is_err());
        }
        let ran = AtomicUsize::new(0);
        pool.run(&|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 2);
    }
}
