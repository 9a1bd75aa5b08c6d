//! Node ports: one bitmap in the store, changed in transactions, so that several servers never give out a port twice.
//!
//! The bitmap is upstream's `RangeAllocation` under upstream's key; a value that cannot be read (one written by upstream
//! in protobuf) is made anew from the services that exist.
//! Source: `k8s.io/kubernetes/pkg/registry/core/service/portallocator`, KEP-3668 (static and dynamic bands).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, str_at};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use storage::{Compare, Op, Revision, Storage};

use super::metrics::{AllocatorMetrics, Scope};

/// Where the bitmap is kept.
const KEY: &str = "/registry/ranges/servicenodeports";
/// Attempts of a transaction that others get in the way of.
const MAX_ATTEMPTS: usize = 64;

/// Why a port cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum PortError {
    #[error("provided port is already allocated")]
    Taken,
    #[error("provided port is not in the valid range. The range of valid ports is {}-{}", .0.start(), .0.end())]
    NotInRange(RangeInclusive<u16>),
    #[error("range is full")]
    Full,
    #[error("too many servers allocate ports at once, try again")]
    Busy,
    #[error("{0}")]
    Store(#[from] storage::Error),
}

/// Ports that are taken.
pub(super) type Taken = BTreeSet<u16>;

/// The bitmap as upstream keeps it: bit `i` of one big-endian number is the `i`th port of the range.
fn encode(range: &RangeInclusive<u16>, taken: &Taken) -> Vec<u8> {
    let mut bytes = vec![0_u8; (usize::from(range.end() - range.start()) + 8) / 8];
    let size = bytes.len();
    for port in taken.iter().filter(|p| range.contains(p)) {
        let bit = usize::from(port - range.start());
        bytes[size - 1 - bit / 8] |= 1 << (bit % 8);
    }
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    let object = json!({
        "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {},
        "range": format!("{}-{}", range.start(), range.end()), "data": STANDARD.encode(&bytes[zeros..]),
    });
    object.to_string().into_bytes()
}

/// The ports of a stored bitmap, `None` when it is not one of this range.
fn decode(range: &RangeInclusive<u16>, stored: &[u8]) -> Option<Taken> {
    let object: Value = serde_json::from_slice(stored).ok()?;
    if str_at(&object, &["range"]) != format!("{}-{}", range.start(), range.end()) {
        return None;
    }
    let bytes = STANDARD.decode(str_at(&object, &["data"])).ok()?;
    let mut taken = Taken::new();
    for (i, byte) in bytes.iter().rev().enumerate() {
        for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
            let port = usize::from(*range.start()) + i * 8 + bit;
            taken.insert(u16::try_from(port).ok().filter(|p| range.contains(p))?);
        }
    }
    Some(taken)
}

/// A free port: one of the upper band while there is one, as the lower one is for ports asked for by number.
fn free_port(range: &RangeInclusive<u16>, taken: &Taken, rng: &mut impl Rng) -> Option<u16> {
    let size = u32::from(range.end() - range.start()) + 1;
    let band = if size < 32 { 0 } else { (size / 32).clamp(16, 128) };
    let split = u16::try_from(u32::from(*range.start()) + band).ok()?;
    [split..=*range.end(), *range.start()..=split.saturating_sub(1)]
        .into_iter()
        .filter(|r| !r.is_empty())
        .find_map(|band| {
            let free: Vec<u16> = band.filter(|port| !taken.contains(port)).collect();
            (!free.is_empty()).then(|| free[rng.random_range(0..free.len())])
        })
}

/// Every node port a service has: of its ports and of its health check.
pub(super) fn ports_of(service: &Value) -> Taken {
    let number =
        |v: Option<&Value>| v.and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    at(service, &["spec", "ports"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|port| number(at(port, &["nodePort"])))
        .chain(number(at(service, &["spec", "healthCheckNodePort"])))
        .collect()
}

/// What a change of the bitmap does.
type Change<'a, T> = &'a (dyn Fn(&mut Taken) -> Result<T, PortError> + Sync);

/// Gives out node ports.
#[derive(Clone)]
pub(super) struct Ports {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) range: RangeInclusive<u16>,
    pub(super) metrics: Arc<AllocatorMetrics>,
}

impl Ports {
    /// Reads the bitmap and its revision (0 when there is none).
    async fn read(&self) -> Result<(Option<Taken>, Revision), PortError> {
        Ok(match self.storage.get(KEY).await? {
            None => (Some(Taken::new()), Revision(0)),
            Some(kv) => (decode(&self.range, &kv.value), kv.mod_revision),
        })
    }

    async fn change<T: Send>(&self, change: Change<'_, T>) -> Result<T, PortError> {
        for _ in 0..MAX_ATTEMPTS {
            let (taken, revision) = self.read().await?;
            // what cannot be read is what the repair loop has not got to yet: nothing is known to be free
            let mut taken = taken.ok_or(PortError::Busy)?;
            let before = taken.clone();
            let result = change(&mut taken)?;
            if taken == before || self.write(&taken, revision).await? {
                return Ok(result);
            }
        }
        Err(PortError::Busy)
    }

    async fn write(&self, taken: &Taken, revision: Revision) -> Result<bool, PortError> {
        let compare = Compare { key: KEY.into(), mod_revision: revision };
        let put = Op::Put { key: KEY.into(), value: encode(&self.range, taken).into(), lease: None };
        let written = self.storage.txn(vec![compare], vec![put]).await?.succeeded;
        if written {
            self.metrics.ports_taken(taken.len(), self.range.len());
        }
        Ok(written)
    }

    /// Counts what came of asking for a port.
    fn counted<T>(&self, scope: Scope, dry_run: bool, outcome: Result<T, PortError>) -> Result<T, PortError> {
        if !dry_run {
            self.metrics.port(scope, outcome.is_ok());
        }
        outcome
    }

    /// Takes this port; with `dry_run` only looks.
    pub(super) async fn allocate(&self, port: u16, dry_run: bool) -> Result<(), PortError> {
        if !self.range.contains(&port) {
            return self.counted(Scope::Static, dry_run, Err(PortError::NotInRange(self.range.clone())));
        }
        let allocated = self
            .change(&|taken| {
                if taken.contains(&port) {
                    return Err(PortError::Taken);
                }
                if !dry_run {
                    taken.insert(port);
                }
                Ok(())
            })
            .await;
        self.counted(Scope::Static, dry_run, allocated)
    }

    /// Takes any free port that is not in `also`; with `dry_run` only looks.
    pub(super) async fn allocate_next(&self, also: &Taken, dry_run: bool) -> Result<u16, PortError> {
        let allocated = self
            .change(&|taken| {
                let all: Taken = taken.union(also).copied().collect();
                let port = free_port(&self.range, &all, &mut rand::rng()).ok_or(PortError::Full)?;
                if !dry_run {
                    taken.insert(port);
                }
                Ok(port)
            })
            .await;
        self.counted(Scope::Dynamic, dry_run, allocated)
    }

    /// Gives ports back.
    pub(super) async fn release(&self, ports: &Taken) -> Result<(), PortError> {
        if ports.is_empty() {
            return Ok(());
        }
        self.change(&|taken| {
            taken.retain(|port| !ports.contains(port));
            Ok(())
        })
        .await
    }

    /// Takes every port that services use, and gives back those that have been unused for long; a bitmap that cannot be
    /// read is replaced. Gives the ports that are taken and not used.
    pub(super) async fn repair(&self, used: &Taken, give_back: &Taken) -> Result<Taken, PortError> {
        for _ in 0..MAX_ATTEMPTS {
            let (taken, revision) = self.read().await?;
            let known = taken.clone().unwrap_or_default();
            let wanted: Taken = known
                .iter()
                .filter(|p| used.contains(p) || !give_back.contains(p))
                .chain(used)
                .copied()
                .collect();
            if taken.as_ref() == Some(&wanted) && revision != Revision(0)
                || self.write(&wanted, revision).await?
            {
                self.metrics.ports_taken(wanted.len(), self.range.len());
                return Ok(wanted.difference(used).copied().collect());
            }
        }
        Err(PortError::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const RANGE: RangeInclusive<u16> = 30000..=32767;

    #[test]
    fn bitmaps_survive_and_look_like_upstreams() {
        for taken in [vec![], vec![30000], vec![30000, 30008, 32767], (30000..=32767).collect()] {
            let taken: Taken = taken.into_iter().collect();
            assert_eq!(decode(&RANGE, &encode(&RANGE, &taken)), Some(taken));
        }
        // Go's big.Int: 1<<0 | 1<<9 is 0x0201
        let object: Value = serde_json::from_slice(&encode(&RANGE, &[30000, 30009].into())).expect("json");
        assert_eq!(STANDARD.decode(object["data"].as_str().expect("text")).expect("base64"), [2, 1]);
        assert_eq!(decode(&(30000..=30010), &encode(&RANGE, &[30000].into())), None);
        assert_eq!(decode(&RANGE, b"k8s\0proto"), None);
    }

    #[test]
    fn the_upper_band_goes_first() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        for _ in 0..100 {
            assert!(free_port(&RANGE, &Taken::new(), &mut rng).expect("free") >= 30086);
        }
        let upper: Taken = (30086..=32767).collect();
        assert!(free_port(&RANGE, &upper, &mut rng).expect("free") < 30086);
        assert_eq!(free_port(&RANGE, &(30000..=32767).collect(), &mut rng), None);
        assert_eq!(free_port(&(30000..=30001), &[30000].into(), &mut rng), Some(30001));
    }

    #[test]
    fn ports_of_services() {
        let service = json!({"spec": {"ports": [{"nodePort": 30001}, {"port": 80}, {"nodePort": 30001}], "healthCheckNodePort": 30002}});
        assert_eq!(ports_of(&service), [30001, 30002].into());
    }

    proptest::proptest! {
        #[test]
        fn bitmaps_round_trip(start in 1_u16..60_000, size in 0_u16..5_000, ports in proptest::collection::btree_set(0_u16..5_000, 0..50)) {
            let range = start..=start.saturating_add(size);
            let taken: Taken = ports.into_iter().filter_map(|p| start.checked_add(p)).filter(|p| range.contains(p)).collect();
            proptest::prop_assert_eq!(decode(&range, &encode(&range, &taken)), Some(taken.clone()));
            if let Some(free) = free_port(&range, &taken, &mut rand::rngs::StdRng::seed_from_u64(1)) {
                proptest::prop_assert!(range.contains(&free) && !taken.contains(&free));
            }
        }
    }
}
