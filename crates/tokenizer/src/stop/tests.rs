//! Tests of stop strings.

use proptest::prelude::*;

use super::*;

/// Feeds the pieces; the whole text emitted, and which stop string was found.
fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (String, Option<usize>) {
    let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
    let mut matcher = StopMatcher::new(stops).include_stop(include);
    let mut text = String::new();
    let mut stopped = None;
    for piece in pieces {
        let progress = matcher.push(piece);
        text.push_str(&progress.text);
        stopped = stopped.or(progress.stopped);
    }
    text.push_str(&matcher.finish());
    (text, stopped)
}

/// The definition, without pieces: the first byte at which a stop string is complete; of several there, the longest.
fn naive(stops: &[&str], include: bool, text: &str) -> (String, Option<usize>) {
    for end in 1..=text.len() {
        let complete = stops.iter().enumerate().filter(|(_, stop)| {
            !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes())
        });
        // The first of equals.
        if let Some((index, stop)) = complete.rev().max_by_key(|(_, stop)| stop.len()) {
            let keep = if include { end } else { end - stop.len() };
            return (text[..keep].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn stops_are_found_across_pieces() {
    assert_eq!(run(&["STOP"], false, &["aS", "TO", "Pb"]), ("a".to_owned(), Some(0)));
    assert_eq!(run(&["STOP"], true, &["aS", "TO", "Pb"]), ("aSTOP".to_owned(), Some(0)));
    assert_eq!(run(&["STOP"], false, &["aS", "TO"]), ("aSTO".to_owned(), None));
    assert_eq!(run(&["b", "ab"], false, &["xab"]), ("x".to_owned(), Some(1)));
    assert_eq!(run(&["aab"], false, &["aa", "ab"]), ("a".to_owned(), Some(0)));
    assert_eq!(run(&["", "é"], false, &["aé"]), ("a".to_owned(), Some(1)));
    assert_eq!(run(&[], false, &["a", "b"]), ("ab".to_owned(), None));
}

#[test]
fn only_what_may_become_a_stop_is_withheld() {
    let mut matcher = StopMatcher::new(vec!["<end>".to_owned(), "\n\n".to_owned()]);
    assert_eq!(matcher.push("hello <e").text, "hello ");
    assert_eq!(matcher.push("lse\n").text, "<else");
    assert_eq!(matcher.push("x").text, "\nx");
    let last = matcher.push("<end>rest");
    assert_eq!(last, StopProgress { text: String::new(), stopped: Some(0) });
    assert_eq!(matcher.push("more"), StopProgress::default());
    assert_eq!(matcher.finish(), "");
}

proptest! {
    #[test]
    fn every_split_gives_the_same_text(
        text in "[abé😀\n]{0,40}",
        stops in proptest::collection::vec("[abé😀\n]{0,4}", 0..4),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
        include in any::<bool>(),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&bounds)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(run(&stops, include, &pieces), naive(&stops, include, &text));
    }

    #[test]
    fn nothing_is_withheld_that_cannot_become_a_stop(
        text in "[abc]{0,30}",
        stops in proptest::collection::vec("[abc]{1,5}", 1..4),
    ) {
        let mut matcher = StopMatcher::new(stops.clone());
        let progress = matcher.push(&text);
        if progress.stopped.is_none() {
            let withheld = matcher.finish();
            let starts_a_stop = |rest: &str| stops.iter().any(|stop| stop.starts_with(rest));
            prop_assert!(withheld.is_empty() || starts_a_stop(&withheld));
            // Nothing longer could be one.
            for (at, _) in text.char_indices().filter(|(at, _)| text.len() - at > withheld.len()) {
                prop_assert!(!starts_a_stop(&text[at..]));
            }
        }
    }
}
