//! What happens in a run of the soak, as data: made from a seed, written as text, read from it.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use scheduler::{PolicyKind, Settings, testing::REPETITIVE};
use simulate::Random;
use types::{
    CacheContent, CacheGroup, ExecutorInfo, Request, RequestId, SamplingParams, Service, TokenId,
};

use super::VOCAB_SIZE;

/// A scheduler and all that happens to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Limits and settings.
    pub setup: Setup,
    /// What happens, in order.
    pub actions: Vec<Action>,
}

/// Limits and settings, as far as the soak varies them.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// By cache group.
    pub groups: Vec<Group>,
    /// Steps under way at once.
    pub in_flight: u32,
    /// Positions of a step.
    pub step: u32,
    /// Positions of one prompt in a step.
    pub chunk: u32,
    /// Requests that run.
    pub running: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// Percent of blocks left free.
    pub reserve: u32,
    /// Percent of the expected growth reckoned with.
    pub growth: u32,
    /// Whether prefixes are cached.
    pub prefix_cache: bool,
    /// The policy's name.
    pub policy: &'static str,
    /// The target for a step; 0 for none.
    pub target_ms: u32,
    /// Most tokens guessed at once; 0 for none.
    pub draft: u32,
    /// Contents of blocks in the host's memory, in each cache group; 0 for no such tier.
    pub host: u32,
}

/// A cache group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its blocks.
    pub blocks: u32,
    /// Positions of each.
    pub block_tokens: u32,
    /// What they hold.
    pub content: CacheContent,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request comes.
    Submit(Arrival),
    /// A request is given up, if it is there.
    Abort(u64),
    /// The executor is lost with what is under way.
    Lose,
    /// Steps are planned as far as they can be, and the oldest ends, after a time that is random up to a millisecond.
    Step(u32),
}

/// A request, as far as the soak varies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its id.
    pub id: u64,
    /// Prompts of a family begin alike.
    pub family: u32,
    /// Tokens of its prompt.
    pub length: u32,
    /// What its tokens are drawn from.
    pub seed: u64,
    /// Whether it says the same over and over.
    pub repeats: bool,
    /// Tokens that end it.
    pub stops: Vec<TokenId>,
    /// Whether it asks for the log-probabilities of its prompt.
    pub logprobs: bool,
    /// Most tokens that it gets.
    pub tokens_max: u32,
    /// Its priority.
    pub priority: i32,
    /// Whether it is due in half a second.
    pub is_due: bool,
    /// Its tenant.
    pub tenant: u32,
    /// Its salt.
    pub salt: u32,
}

impl Script {
    /// The script of a seed: about `steps` steps, and what happens between them.
    pub fn random(seed: u64, steps: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let group = |random: &mut Random| {
            let (blocks, block_tokens) = (random.between(8, 60), random.between(1, 8));
            Group { blocks, block_tokens, content: CacheContent::Everything }
        };
        let mut setup = Setup {
            groups: (0..random.between(1, 2)).map(|_| group(random)).collect(),
            in_flight: random.between(1, 2),
            step: random.between(1, 48),
            chunk: random.between(1, 24),
            running: random.between(1, 12),
            waiting: random.between(1, 40),
            reserve: random.between(0, 30),
            growth: random.between(0, 120),
            prefix_cache: !random.chance(4),
            policy: PolicyKind::NAMES[random.any() as usize % PolicyKind::NAMES.len()].0,
            target_ms: random.between(0, 30),
            // From numbers of its own, so that all else of a script does not depend on it.
            draft: Random::new(!seed).between(0, 6),
            host: {
                let mut random = Random::new(seed.rotate_left(32));
                if random.chance(3) { 0 } else { random.between(1, 80) }
            },
        };
        let windows = &mut Random::new(!seed.rotate_left(32));
        if windows.chance(3) {
            let which = windows.any() as usize % setup.groups.len();
            setup.groups[which].content = CacheContent::Window(windows.spread(1, 50));
            setup.host = 0;
        }
        let states = &mut Random::new(!seed.rotate_left(16));
        if states.chance(3) {
            // Beside the others, or alone.
            if states.chance(4) {
                setup.groups.clear();
            }
            let (blocks, block_tokens) = (states.between(4, 40), states.between(1, 8));
            let content = CacheContent::State(states.between(0, 40));
            setup.groups.push(Group { blocks, block_tokens, content });
            setup.host = 0;
        }
        // Some lose the executor every few dozen steps, so that what outlives a loss, or should not, is seen soon.
        let loses_often = Random::new(seed.rotate_left(32)).chance(4);
        let losses_apart = if loses_often { 1 } else { 8 };
        let (mut actions, mut stepped, mut arrived) = (Vec::new(), 0, 0);
        while stepped < steps {
            actions.push(match random.between(0, 99) {
                0..30 => {
                    arrived += 1;
                    Action::Submit(Arrival::random(arrived - 1, random))
                }
                // Those that came lately are still there, more often than not.
                30..33 => Action::Abort((arrived).saturating_sub(random.any() % 20 + 1)),
                33 if random.chance(losses_apart) => Action::Lose,
                _ => {
                    stepped += 1;
                    Action::Step(random.between(0, 999))
                }
            });
        }
        Self { setup, actions }
    }
}

impl Arrival {
    fn random(id: u64, random: &mut Random) -> Self {
        let (family, length) = (random.between(0, 5), random.spread(1, 60));
        let seed = random.any() % 1_000_000;
        Self {
            id,
            family,
            length,
            seed,
            repeats: seed.is_multiple_of(2),
            stops: (0..random.between(0, 2)).map(|_| random.between(0, VOCAB_SIZE - 1)).collect(),
            logprobs: random.chance(6),
            tokens_max: random.spread(1, 80),
            priority: random.between(0, 2) as i32,
            is_due: random.chance(3),
            tenant: random.between(0, 2),
            salt: random.between(0, 1),
        }
    }

    /// As the scheduler gets it.
    pub(super) fn request(&self) -> Request {
        let token = |place: u32| (self.family * 31 + place * 7) % VOCAB_SIZE;
        Request {
            id: RequestId(self.id),
            prompt: (0..self.length).map(token).collect(),
            sampling: SamplingParams {
                seed: self.seed | if self.repeats { REPETITIVE } else { 0 },
                stop_token_ids: self.stops.clone(),
                prompt_logprobs: self.logprobs.then_some(1),
                ..SamplingParams::default()
            },
            tokens_max: self.tokens_max,
            service: Service {
                priority: self.priority,
                due: self.is_due.then(|| Duration::from_millis(500)),
                tenant: self.tenant.to_string().into(),
                cache_salt: self.salt.to_string().into(),
            },
        }
    }
}

impl Setup {
    pub(super) fn info(&self) -> ExecutorInfo {
        let groups = self.groups.iter();
        let group = |&Group { blocks, block_tokens, content }: &Group| CacheGroup {
            blocks_kept: blocks / 2,
            host_blocks: self.host,
            content,
            ..CacheGroup::new(blocks, block_tokens)
        };
        ExecutorInfo {
            cache_groups: groups.map(group).collect(),
            step_tokens_max: 64,
            slots_max: 12,
            context_max: 200,
            vocab_size: VOCAB_SIZE,
            steps_in_flight_max: self.in_flight,
            draft_tokens_max: self.draft,
        }
    }

    pub(super) fn settings(&self) -> Settings {
        let mut policies = PolicyKind::NAMES.into_iter();
        let policy = policies.find(|(name, _)| *name == self.policy);
        Settings {
            step_tokens_max: self.step,
            prefill_chunk_max: self.chunk,
            running_max: self.running,
            waiting_max: self.waiting,
            kv_reserve_percent: self.reserve,
            kv_growth_percent: self.growth,
            prefix_cache: self.prefix_cache,
            policy: policy.expect("the name is one of them").1,
            tenant_weights: BTreeMap::from([("1".into(), 3)]),
            token_latency_target: (self.target_ms > 0)
                .then(|| Duration::from_millis(self.target_ms.into())),
            draft_tokens_max: self.draft,
        }
    }
}

impl fmt::Display for Group {
    /// `39x4`: 39 blocks of 4 positions; `39x4w10` with a window of 10; `39x4s20` of states with checkpoints at least
    /// 20 positions apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.blocks, self.block_tokens)?;
        match self.content {
            CacheContent::Everything => Ok(()),
            CacheContent::Window(positions) => write!(f, "w{positions}"),
            CacheContent::State(apart) => write!(f, "s{apart}"),
        }
    }
}

impl fmt::Display for Script {
    /// A line for the setup, then one for each thing that happens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup {
            groups,
            in_flight,
            step,
            chunk,
            running,
            waiting,
            reserve,
            growth,
            prefix_cache,
            policy,
            target_ms,
            draft,
            host,
        } = &self.setup;
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        writeln!(
            f,
            "setup groups={} in_flight={in_flight} step={step} chunk={chunk} running={running} waiting={waiting} reserve={reserve} growth={growth} prefix_cache={} policy={policy} target_ms={target_ms} draft={draft} host={host}",
            groups.join(","),
            u8::from(*prefix_cache),
        )?;
        for action in &self.actions {
            match action {
                Action::Submit(arrival) => {
                    let Arrival {
                        id,
                        family,
                        length,
                        seed,
                        repeats,
                        stops,
                        logprobs,
                        tokens_max,
                        priority,
                        is_due,
                        tenant,
                        salt,
                    } = arrival;
                    let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
                    writeln!(
                        f,
                        "submit id={id} family={family} length={length} seed={seed} repeats={} stops={} logprobs={} tokens_max={tokens_max} priority={priority} due={} tenant={tenant} salt={salt}",
                        u8::from(*repeats),
                        stops.join(","),
                        u8::from(*logprobs),
                        u8::from(*is_due),
                    )?;
                }
                Action::Abort(id) => writeln!(f, "abort id={id}")?,
                Action::Lose => writeln!(f, "lose")?,
                Action::Step(noise_us) => writeln!(f, "step noise_us={noise_us}")?,
            }
        }
        Ok(())
    }
}

/// The fields of a line, by name.
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).copied().ok_or_else(|| format!("`{name}` is missing"))
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<T, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("{name}={text} is no number that fits"))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        Ok(self.number::<u8>(name)? != 0)
    }

    fn list<T>(&self, name: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
        let text = self.text(name)?;
        let words = text.split(',').filter(|word| !word.is_empty());
        let values: Option<Vec<T>> = words.map(read).collect();
        values.ok_or_else(|| format!("{name}={text} cannot be read"))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut setup, mut actions) = (None, Vec::new());
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let Some(kind) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let fields = Fields(words.filter_map(|word| word.split_once('=')).collect());
            let action = match kind {
                "setup" => read_setup(&fields).map(|read| {
                    setup = Some(read);
                    None
                }),
                "submit" => read_arrival(&fields).map(|read| Some(Action::Submit(read))),
                "abort" => fields.number("id").map(|id| Some(Action::Abort(id))),
                "lose" => Ok(Some(Action::Lose)),
                "step" => fields.number("noise_us").map(|us| Some(Action::Step(us))),
                other => Err(format!("nothing is called `{other}`")),
            };
            actions.extend(action.map_err(|what| format!("line {}: {what}", index + 1))?);
        }
        Ok(Self { setup: setup.ok_or("there is no line `setup`")?, actions })
    }
}

fn read_setup(fields: &Fields<'_>) -> Result<Setup, String> {
    let group = |word: &str| {
        let (blocks, rest) = word.split_once('x')?;
        let (block_tokens, content) = if let Some((tokens, window)) = rest.split_once('w') {
            (tokens, CacheContent::Window(window.parse().ok()?))
        } else if let Some((tokens, apart)) = rest.split_once('s') {
            (tokens, CacheContent::State(apart.parse().ok()?))
        } else {
            (rest, CacheContent::Everything)
        };
        let (blocks, block_tokens) = (blocks.parse().ok()?, block_tokens.parse().ok()?);
        Some(Group { blocks, block_tokens, content })
    };
    let policy = fields.text("policy")?;
    let mut policies = PolicyKind::NAMES.iter();
    Ok(Setup {
        groups: fields.list("groups", group)?,
        in_flight: fields.number("in_flight")?,
        step: fields.number("step")?,
        chunk: fields.number("chunk")?,
        running: fields.number("running")?,
        waiting: fields.number("waiting")?,
        reserve: fields.number("reserve")?,
        growth: fields.number("growth")?,
        prefix_cache: fields.flag("prefix_cache")?,
        policy: policies
            .find(|(name, _)| *name == policy)
            .ok_or_else(|| format!("there is no policy `{policy}`"))?
            .0,
        target_ms: fields.number("target_ms")?,
        draft: fields.number("draft")?,
        host: fields.number("host")?,
    })
}

fn read_arrival(fields: &Fields<'_>) -> Result<Arrival, String> {
    Ok(Arrival {
        id: fields.number("id")?,
        family: fields.number("family")?,
        length: fields.number("length")?,
        seed: fields.number("seed")?,
        repeats: fields.flag("repeats")?,
        stops: fields.list("stops", |word| word.parse().ok())?,
        logprobs: fields.flag("logprobs")?,
        tokens_max: fields.number("tokens_max")?,
        priority: fields.number("priority")?,
        is_due: fields.flag("due")?,
        tenant: fields.number("tenant")?,
        salt: fields.number("salt")?,
    })
}
