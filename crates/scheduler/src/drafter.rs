//! Guessing a request's next tokens from its own: what followed the last time that the text went as it goes now.
//!
//! A suffix automaton of prompt and answer knows the longest end of the text that stands in it earlier too, and where.
//! It takes a token in constant time, but for the logarithm of its size, and has at most two states a token.
//!
//! How many tokens are guessed follows from how the last guesses went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::TokenId;

/// An end of the text that is shorter says nothing about what comes next.
const MATCH_TOKENS_MIN: u32 = 3;
/// The same, where guesses have gone wrong mostly.
const DOUBTFUL_MATCH_TOKENS_MIN: u32 = 10;
/// Guesses below this share of right ones are doubtful.
const DOUBTFUL: f64 = 0.3;
/// What is assumed of the first guess.
const RIGHT_AT_FIRST: f64 = 0.5;
/// What the share of right guesses so far counts for when the next is known.
const RIGHT_KEPT: f64 = 0.8;

/// The text of one request, and how well it is guessed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Drafter {
    tokens: Vec<TokenId>,
    states: Vec<State>,
    next: BTreeMap<(u32, TokenId), u32>,
    /// The state of the whole text.
    last: u32,
    /// Tokens guessed at once, at most.
    length: u32,
    /// The share of guessed tokens that were right, the last ones counting most.
    right: f64,
}

/// Ends of the text that stand in the same places.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct State {
    /// Tokens of the longest of them.
    len: u32,
    /// The state of the longest shorter end that stands in more places.
    link: Option<u32>,
    /// Where one of them ends: how many tokens there are up to there.
    end: u32,
}

const ROOT: u32 = 0;

impl Drafter {
    pub(crate) fn new() -> Self {
        Self {
            tokens: Vec::new(),
            states: vec![State { len: 0, link: None, end: 0 }],
            next: BTreeMap::new(),
            last: ROOT,
            length: 1,
            right: RIGHT_AT_FIRST,
        }
    }

    /// Brings the text up to date: `tokens` goes on where the last one ended.
    pub(crate) fn follow(&mut self, tokens: &[TokenId]) {
        for token in &tokens[self.tokens.len()..] {
            self.push(*token);
        }
    }

    fn push(&mut self, token: TokenId) {
        // What was found to stand earlier too stands here now: the nearest place is the best guess.
        let now = self.tokens.len() as u32;
        if let Some(link) = self.states[self.last as usize].link.filter(|link| *link != ROOT) {
            self.states[link as usize].end = now;
        }
        self.tokens.push(token);
        let whole = self.states[self.last as usize].len + 1;
        let added = self.add(State { len: whole, link: None, end: now + 1 });
        let mut at = Some(self.last);
        while let Some(state) = at {
            if self.next.contains_key(&(state, token)) {
                break;
            }
            self.next.insert((state, token), added);
            at = self.states[state as usize].link;
        }
        let link = match at {
            None => ROOT,
            Some(state) => self.followed(state, token),
        };
        self.states[added as usize].link = Some(link);
        self.last = added;
    }

    /// The state that has just what comes of a state with one more token; made if there is none.
    fn followed(&mut self, state: u32, token: TokenId) -> u32 {
        let follower = self.next[&(state, token)];
        let State { len, link, end } = self.states[follower as usize];
        let exact = self.states[state as usize].len + 1;
        if len == exact {
            return follower;
        }
        let split = self.add(State { len: exact, link, end });
        let onward = self.next.range((follower, 0)..=(follower, TokenId::MAX));
        let onward: Vec<_> = onward.map(|((_, token), to)| ((split, *token), *to)).collect();
        self.next.extend(onward);
        self.states[follower as usize].link = Some(split);
        let mut at = Some(state);
        while let Some(state) = at {
            match self.next.get_mut(&(state, token)) {
                Some(to) if *to == follower => *to = split,
                _ => break,
            }
            at = self.states[state as usize].link;
        }
        split
    }

    fn add(&mut self, state: State) -> u32 {
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    /// The tokens that come next, as far as the text tells, at most `tokens_max`; none where it does not. `is_worth`
    /// says whether to guess a token that is right with this probability.
    pub(crate) fn guess(&self, tokens_max: u32, is_worth: impl Fn(f64) -> bool) -> Vec<TokenId> {
        let Some(link) = self.states[self.last as usize].link else { return Vec::new() };
        let State { len, end, .. } = self.states[link as usize];
        let is_doubtful = self.right < DOUBTFUL;
        let least = if is_doubtful { DOUBTFUL_MATCH_TOKENS_MIN } else { MATCH_TOKENS_MIN };
        if len < least {
            return Vec::new();
        }
        let count_max = tokens_max.min(self.length) as usize;
        // The longer what matches, the surer; and each token is right only if those before it are.
        let sure = self.right.max(1.0 - 1.0 / f64::from(len));
        let mut count = 0;
        let mut probability = sure;
        while count < count_max && is_worth(probability) {
            count += 1;
            probability *= sure;
        }
        // What follows up to here is followed by itself, if the guess is right.
        self.tokens[end as usize..].iter().copied().cycle().take(count).collect()
    }

    /// Of `guessed` tokens the first `accepted` were right.
    pub(crate) fn judge(&mut self, guessed: u32, accepted: u32) {
        let share = f64::from(accepted) / f64::from(guessed);
        self.right = self.right * RIGHT_KEPT + share * (1.0 - RIGHT_KEPT);
        self.length = if accepted == guessed { self.length.max(2 * guessed) } else { accepted + 1 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;

    fn always(_: f64) -> bool {
        true
    }

    /// The longest end of a text that stands in it earlier too, the slow way.
    fn longest_again(tokens: &[TokenId]) -> usize {
        let earlier = |len: usize| {
            let end = &tokens[tokens.len() - len..];
            (0..tokens.len() - len).any(|start| tokens[start..start + len] == *end)
        };
        (0..tokens.len()).rev().find(|len| earlier(*len)).unwrap_or(0)
    }

    #[test]
    fn what_followed_last_time_is_guessed() {
        let mut drafter = Drafter::new();
        drafter.length = 4;
        drafter.follow(&[1, 2, 3, 4, 5, 6, 7, 1, 2]);
        assert!(drafter.guess(9, always).is_empty(), "two tokens are too few");
        drafter.follow(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3]);
        assert_eq!(drafter.guess(9, always), [4, 5, 6, 7]);
        drafter.length = 9;
        assert_eq!(drafter.guess(9, always), [4, 5, 6, 7, 1, 2, 3, 4, 5]);
        assert_eq!(drafter.guess(2, always), [4, 5]);
        assert!(drafter.guess(9, |_| false).is_empty());
        // The last time is nearer than the first.
        drafter.follow(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 9, 9, 1, 2, 3, 9, 8, 1, 2, 3]);
        assert_eq!(drafter.guess(2, always)[0], 9);
    }

    #[test]
    fn the_length_follows_from_how_guesses_went() {
        let mut drafter = Drafter::new();
        let text: Vec<TokenId> = (0..100).map(|place| place % 10).collect();
        drafter.follow(&text);
        for (length, accepted) in [(1, 1), (2, 2), (4, 4), (8, 3), (4, 0), (1, 0)] {
            let guess = drafter.guess(16, always);
            assert_eq!(guess.len(), length);
            assert!(guess.iter().zip(0..).all(|(token, place)| *token == place % 10));
            drafter.judge(guess.len() as u32, accepted);
        }
    }

    #[test]
    fn a_token_is_guessed_only_if_it_is_worth_it() {
        let mut drafter = Drafter::new();
        drafter.length = 16;
        drafter.follow(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4]);
        // A match of four tokens is right in three cases out of four.
        assert_eq!(drafter.guess(16, |probability| probability > 0.5).len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_automaton_finds_the_longest_end_that_stands_earlier(
            tokens in prop::collection::vec(0..3u32, 1..60),
        ) {
            let mut drafter = Drafter::new();
            for end in 1..=tokens.len() {
                drafter.follow(&tokens[..end]);
                let link = drafter.states[drafter.last as usize].link.unwrap();
                let State { len, end: place, .. } = drafter.states[link as usize];
                prop_assert_eq!(len as usize, longest_again(&tokens[..end]));
                let (len, place) = (len as usize, place as usize);
                prop_assert!(len == 0 || place < end, "it stands earlier");
                prop_assert_eq!(&tokens[place - len..place], &tokens[end - len..end]);
            }
            prop_assert!(drafter.states.len() <= 2 * tokens.len() + 1);
        }
    }
}
