//! Generated names: `metadata.generateName` plus a random suffix.
//!
//! Source: `k8s.io/apiserver/pkg/storage/names` and `k8s.io/apimachinery/pkg/util/rand`.

use rand::Rng;

/// Characters of suffixes: no vowels and nothing that looks like one, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters of the suffix.
const SUFFIX: usize = 5;
/// Longest generated name; a longer prefix is cut.
const MAX_NAME: usize = 63;

/// `count` characters of the alphabet of generated names.
pub fn random_string(count: usize, rng: &mut impl Rng) -> String {
    (0..count).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A name made from a prefix, as the server makes one from `generateName`.
pub fn generate(prefix: &str, rng: &mut impl Rng) -> String {
    let mut end = prefix.len().min(MAX_NAME - SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], random_string(SUFFIX, rng))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn names_have_five_random_characters_and_fit() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let name = generate("web-", &mut rng);
        assert!(name.starts_with("web-") && name.len() == 9);
        assert!(name[4..].bytes().all(|b| ALPHABET.contains(&b)));
        assert_eq!(generate(&"a".repeat(100), &mut rng).len(), 63);
        assert_ne!(generate("a", &mut rng), generate("a", &mut rng));
        assert!(generate(&"é".repeat(40), &mut rng).len() <= 63);
    }
}
