//! Every entry point on random bytes and on valid inputs with a few bytes changed, as many as a test run can bear.

use fuzz::ENTRIES;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Inputs of each entry and of each kind, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 128;

/// Inputs that get far, and some that were once trouble elsewhere.
const SEEDS: [&[u8]; 17] = [
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"100m"}}}]}}"#,
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","name":"q"},"unknown":[1,2.5e300,-0,null,true]}"#,
    b"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: i}\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
    b"a: &a\n  b: *a\n---\n- !!binary aGVsbG8=\n- 0x1F\n- 1e3\n- ~\n",
    b"k8s\0\n\t\n\x02v1\x12\x03Pod\x12\x10\n\x0e\n\x01p\x12\0\x1a\0\"\0*\x002\08\0B\0",
    br#"0[{"op":"replace","path":"/spec/containers/0/image","value":"x"},{"op":"copy","from":"/spec","path":"/spec/a"},{"op":"test","path":"","value":{}}]"#,
    br#"1{"metadata":{"labels":null},"spec":{"containers":[]}}"#,
    br#"2{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["containers"]}}"#,
    b"a=b,c in (d,e),!f,g notin (h),i,j!=k,l>5",
    b"metadata.name=a,spec.nodeName!=b\\,c",
    br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}},"v:1":{},"i:0":{}}}}"#,
    b"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTIsInN0YXJ0IjoiZGVmYXVsdC9hXHUwMDAwIn0",
    b"/api/v1/namespaces/default/pods/p/log?container=c&follow=true&%zz=1",
    b"/apis/apps/v1/watch/namespaces/n/deployments/d/../x?fieldSelector=metadata.name%3Da",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"%YAML 1.2\n--- |\n text\n...\n? [complex, key]\n: value\n<<: {a: b}\n",
];

/// Bytes set, taken out or put in at places of a seed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0_u8..3);
    (prop::sample::select(SEEDS.to_vec()), prop::collection::vec(change, 0..6)).prop_map(|(seed, changes)| {
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
    })
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
    for (_, entry) in ENTRIES {
        for seed in SEEDS {
            entry(seed);
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
