//! A vocabulary that can write any text and read any token: every byte, then words of syllables, then control tokens.

use weights::gguf::Builder;

/// Control tokens, the last of a vocabulary; the first of them begins and ends texts, the last ends turns.
const CONTROLS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const CHAT_TEMPLATE: &str = "\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

/// Fewest tokens of a vocabulary.
pub(super) const TOKENS_MIN: usize = 256 + CONTROLS.len();

/// GGUF's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Sets the keys of a vocabulary with `size` tokens, at least [`TOKENS_MIN`].
pub(super) fn set(builder: &mut Builder, size: usize, pre_tokenizer: &str) {
    let words = size - TOKENS_MIN;
    let bytes = (0..=255).map(character_of).map(String::from);
    let tokens = bytes.chain((0..words).map(word)).chain(CONTROLS.map(str::to_owned));
    let control = |place: usize| (size - CONTROLS.len() + place) as u32;
    let kind = |index| if index < control(0) as usize { NORMAL } else { CONTROL };
    builder
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", pre_tokenizer)
        .set("tokenizer.ggml.tokens", tokens.collect::<Vec<String>>())
        .set("tokenizer.ggml.token_type", (0..size).map(kind).collect::<Vec<i32>>())
        .set("tokenizer.ggml.merges", Vec::<String>::new())
        .set("tokenizer.ggml.bos_token_id", control(0))
        .set("tokenizer.ggml.eos_token_id", control(2))
        .set("tokenizer.ggml.add_bos_token", false)
        .set("tokenizer.chat_template", CHAT_TEMPLATE);
}

/// The character that stands for a byte in GPT-2's alphabet: printable Latin-1 for itself, the rest from U+0100 on.
fn character_of(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !is_printable(other)).count();
    char::from_u32(0x100 + before as u32).expect("a letter of Latin Extended-A")
}

/// A word with a space before it, another for each index.
fn word(index: usize) -> String {
    const CONSONANTS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";
    const VOWELS: &[u8; 5] = b"aeiou";
    let mut word = String::from(character_of(b' '));
    let mut rest = index;
    // Two syllables at least, so that no word is a prefix that begins another of the same length.
    for place in 0.. {
        if place >= 2 && rest == 0 {
            break;
        }
        let syllable = rest % 100;
        word.push(char::from(CONSONANTS[syllable / 5]));
        word.push(char::from(VOWELS[syllable % 5]));
        rest /= 100;
    }
    word
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_token_is_another() {
        assert_eq!((0..=255).map(character_of).collect::<BTreeSet<char>>().len(), 256);
        assert_eq!([b' ', b'\n', 0xad, b'a'].map(character_of), ['Ġ', 'Ċ', 'Ń', 'a']);
        assert_eq!((0..100_000).map(word).collect::<BTreeSet<String>>().len(), 100_000);
    }
}
