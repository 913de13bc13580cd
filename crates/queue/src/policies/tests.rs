//! What each policy promises, on a server that serves one request after the other.

use super::*;

/// A request of a tenant that costs something, and what it waited for: the cost of all served before it since it came.
#[derive(Clone, Debug)]
struct Job {
    tenant: Arc<str>,
    cost: u64,
    priority: i32,
    due_s: Option<u64>,
}

fn job(tenant: &str, cost: u64) -> Job {
    Job { tenant: tenant.into(), cost, priority: 0, due_s: None }
}

/// Serves jobs in the order of a policy. Each comes when so much cost has been served; each serves its own cost.
struct Server {
    policy: ActivePolicy,
    waiting: BTreeMap<(Place, usize), (Job, u64)>,
    served: u64,
    arrivals: usize,
}

impl Server {
    fn new(kind: PolicyKind, weights: &[(&str, u32)]) -> Self {
        let weights = weights.iter().map(|(tenant, weight)| ((*tenant).into(), *weight)).collect();
        let policy = kind.start(&weights);
        Self { policy, waiting: BTreeMap::new(), served: 0, arrivals: 0 }
    }

    fn arrive(&mut self, job: Job) -> usize {
        let arrival = Arrival {
            now: Duration::from_secs(self.served),
            priority: job.priority,
            tenant: job.tenant.clone(),
            cost: job.cost,
            due: job.due_s.map(Duration::from_secs),
        };
        let place = self.policy.place(&arrival);
        self.policy.arrived(&arrival);
        self.arrivals += 1;
        self.waiting.insert((place, self.arrivals), (job, self.served));
        self.arrivals
    }

    /// Serves the next: its number and tenant, and what was served since it came.
    fn serve(&mut self) -> Option<(usize, Arc<str>, u64)> {
        let ((place, number), (job, came)) = self.waiting.pop_first()?;
        let waited = self.served - came;
        self.policy.started(place, &job.tenant, job.cost);
        self.served += job.cost;
        self.policy.ended(&job.tenant, job.cost, job.cost);
        Some((number, job.tenant, waited))
    }

    fn order(&mut self, jobs: &[Job]) -> Vec<usize> {
        for job in jobs {
            self.arrive(job.clone());
        }
        std::iter::from_fn(|| self.serve().map(|(number, ..)| number)).collect()
    }
}

#[test]
fn first_come_is_first_served() {
    let mut jobs = [job("a", 100), job("b", 1), job("a", 1)];
    jobs[2].priority = -5;
    assert_eq!(Server::new(PolicyKind::FirstCome, &[]).order(&jobs), [1, 2, 3]);
}

#[test]
fn a_class_goes_before_all_higher_ones() {
    let mut jobs = [job("a", 1), job("a", 100), job("a", 1)];
    (jobs[1].priority, jobs[2].priority) = (-1, -1);
    for kind in [PolicyKind::Priority, PolicyKind::Fair, PolicyKind::Shortest] {
        assert_eq!(Server::new(kind, &[]).order(&jobs).last(), Some(&1), "{kind:?}");
    }
    assert_eq!(Server::new(PolicyKind::Priority, &[]).order(&jobs), [2, 3, 1]);
}

#[test]
fn deadlines_are_served_in_their_order_and_others_as_if_due_in_ten_seconds() {
    let mut jobs = [job("a", 1), job("a", 1), job("a", 1)];
    (jobs[1].due_s, jobs[2].due_s) = (Some(20), Some(3));
    assert_eq!(Server::new(PolicyKind::Deadline, &[]).order(&jobs), [3, 1, 2]);
}

#[test]
fn small_ones_pass_large_ones_that_came_before() {
    for kind in [PolicyKind::Fair, PolicyKind::Shortest] {
        let order = Server::new(kind, &[]).order(&[job("a", 1000), job("a", 10), job("b", 10)]);
        assert_eq!(order.last(), Some(&1), "{kind:?}");
    }
}

/// Small requests keep coming, as fast as they are served: of one tenant, or each of a new one.
#[test]
fn nobody_waits_for_ever() {
    for kind in [PolicyKind::Fair, PolicyKind::Shortest] {
        for many_tenants in [false, true] {
            let mut server = Server::new(kind, &[]);
            server.arrive(job("small", 10));
            let large = server.arrive(job("large", 1000));
            let waited = (0..10_000).find_map(|index| {
                let tenant = if many_tenants { format!("tenant {index}") } else { "small".into() };
                server.arrive(job(&tenant, 10));
                let (number, _, waited) = server.serve().unwrap();
                (number == large).then_some(waited)
            });
            // Two new tenants wait at any time, and share with the large one.
            let sharing = 1 + u64::from(many_tenants && kind == PolicyKind::Fair);
            let most = (OVERTAKEN_COSTS_MAX * sharing + 1) * 1000;
            assert!(waited.is_some_and(|waited| waited <= most), "{kind:?} {waited:?}");
        }
    }
}

#[test]
fn tenants_share_by_their_weights_whatever_they_ask_for() {
    let mut server = Server::new(PolicyKind::Fair, &[("c", 2)]);
    // One asks for ten times as much as another, in large requests; the third has twice the weight.
    for _ in 0..1000 {
        server.arrive(job("a", 100));
    }
    for _ in 0..6000 {
        server.arrive(job("b", 10));
        server.arrive(job("c", 20));
    }
    let mut served: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    while server.served < 100_000 {
        let before = server.served;
        let (_, tenant, _) = server.serve().unwrap();
        *served.entry(tenant).or_default() += server.served - before;
    }
    let share = |tenant: &str| served[tenant] as f64 / server.served as f64;
    for (tenant, due) in [("a", 0.25), ("b", 0.25), ("c", 0.5)] {
        assert!((share(tenant) / due - 1.0).abs() < 0.1, "{tenant} {served:?}");
    }
}

#[test]
fn who_was_away_has_no_claim_and_who_asked_for_much_no_debt_without_rivals() {
    let mut server = Server::new(PolicyKind::Fair, &[]);
    for _ in 0..100 {
        server.arrive(job("busy", 10));
        server.serve();
    }
    // Both start alike now: neither goes first for long.
    let mut in_a_row: u32 = 0;
    let mut last: Arc<str> = "".into();
    for _ in 0..50 {
        server.arrive(job("busy", 10));
        server.arrive(job("away", 10));
    }
    for _ in 0..50 {
        let (_, tenant, _) = server.serve().unwrap();
        in_a_row = if tenant == last { in_a_row + 1 } else { 1 };
        assert!(in_a_row <= 2, "{tenant} goes {in_a_row} times in a row");
        last = tenant;
    }
}

#[test]
fn what_a_request_really_cost_counts() {
    let mut fair = fair::Fair::new(BTreeMap::new());
    let arrival = |tenant: &str| Arrival {
        now: Duration::ZERO,
        priority: 0,
        tenant: tenant.into(),
        cost: 100,
        due: None,
    };
    fair.arrived(&arrival("modest"));
    fair.arrived(&arrival("greedy"));
    fair.ended(&"greedy".into(), 100, 900);
    fair.ended(&"modest".into(), 100, 10);
    assert!(fair.place(&arrival("modest")) < fair.place(&arrival("greedy")));
}
