//! Every entry point on random bytes and on valid inputs with a few bytes changed, as many as a test run can bear.

use fuzz::seeds::BY_HAND;
use fuzz::{ENTRIES, seeds};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Inputs of each entry and of each kind, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 128;

/// Bytes set, taken out or put in at places of a seed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0_u8..3);
    (prop::sample::select(BY_HAND.to_vec()), prop::collection::vec(change, 0..6)).prop_map(
        |(seed, changes)| {
            let mut bytes = seed.to_vec();
            for (place, byte, how) in changes {
                if bytes.is_empty() {
                    bytes.push(byte);
                }
                let at = place.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, byte),
                }
            }
            bytes
        },
    )
}

fn run(inputs: &impl Strategy<Value = Vec<u8>>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    for (name, entry) in ENTRIES {
        let mut runner = TestRunner::new(config.clone());
        let outcome = runner.run(inputs, |bytes| {
            entry(&bytes);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn random_bytes_do_no_harm() {
    run(&prop::collection::vec(any::<u8>(), 0..300));
}

#[test]
fn nearly_valid_inputs_do_no_harm() {
    run(&mutated());
}

#[test]
fn valid_inputs_do_no_harm() {
    for (name, entry) in ENTRIES {
        for seed in seeds::of(name) {
            entry(&seed);
        }
    }
}

/// Every entry point has a target of its name under libFuzzer.
#[test]
fn every_entry_is_a_target() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    for (name, _) in ENTRIES {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), ENTRIES.len());
}
