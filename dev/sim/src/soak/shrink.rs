//! Making a script that fails smaller, as long as it fails.

use super::{Action, Script};

/// Scripts tried at most: each is a run.
const TRIES_MAX: usize = 4000;

/// The smallest script found that fails as well, from one that `fails`: fewer requests, aborts and steps, shorter
/// prompts and answers.
pub fn shrink(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut search = Search { best: script.clone(), fails, tries: 0 };
    loop {
        let before = search.best.clone();
        search.drop_actions();
        search.shorten();
        if search.best == before || search.tries >= TRIES_MAX {
            return search.best;
        }
    }
}

struct Search<F> {
    best: Script,
    fails: F,
    tries: usize,
}

impl<F: Fn(&Script) -> bool> Search<F> {
    fn try_script(&mut self, script: Script) -> bool {
        self.tries += 1;
        let is_better = self.tries <= TRIES_MAX && (self.fails)(&script);
        if is_better {
            self.best = script;
        }
        is_better
    }

    /// Leaves stretches of actions out, half of them at first and single ones at last.
    fn drop_actions(&mut self) {
        let mut size = self.best.actions.len().div_ceil(2);
        while size > 0 {
            // From the end on: what happens after the failure goes first.
            let mut end = self.best.actions.len();
            while end > 0 {
                let begin = end.saturating_sub(size);
                let mut fewer = self.best.clone();
                fewer.actions.drain(begin..end);
                self.try_script(fewer);
                end = begin;
            }
            size /= 2;
        }
    }

    /// Halves what can be halved in each request, and takes away what it asks for beside tokens.
    fn shorten(&mut self) {
        for index in 0..self.best.actions.len() {
            let simpler: [fn(&mut super::Arrival); 5] = [
                |arrival| arrival.length = arrival.length.div_ceil(2),
                |arrival| arrival.tokens_max = arrival.tokens_max.div_ceil(2),
                |arrival| arrival.stops.clear(),
                |arrival| arrival.logprobs = false,
                |arrival| (arrival.priority, arrival.is_due, arrival.tenant) = (0, false, 0),
            ];
            for simplify in simpler {
                loop {
                    let mut script = self.best.clone();
                    let Action::Submit(arrival) = &mut script.actions[index] else { break };
                    simplify(arrival);
                    if script == self.best || !self.try_script(script) {
                        break;
                    }
                }
            }
        }
    }
}
