//! Compaction shared by all servers over one store, upstream's among them.
//!
//! Each server comes by every interval with the revision it saw the time before. The servers agree by one key,
//! [`KEY`]: whoever finds it as it was an interval ago writes that revision to it and compacts; who finds it changed
//! knows that another server did. So one compaction is made an interval, and history is never shorter than one.
//! Specified by upstream's `k8s.io/apiserver/pkg/storage/etcd3/compact.go`, with which this shares the key.

use bytes::Bytes;

use crate::{Compare, Error, Op, Revision, Storage};

/// Holds the revision compacted last, as decimal text.
pub const KEY: &str = "compact_rev_key";

/// What one server remembers between rounds.
#[derive(Debug, Default)]
pub struct Compactor {
    /// Revision of [`KEY`] at the last round.
    key: Revision,
    /// The store's revision at the last round; `None` before the first one.
    seen: Option<Revision>,
}

impl Compactor {
    /// One round, to be made every interval. Answers the revision that was compacted by it, `None` when there was
    /// nothing to do here. After an error the next round goes on.
    pub async fn round(&mut self, storage: &dyn Storage) -> Result<Option<Revision>, Error> {
        let target = self.seen.unwrap_or_default();
        let compare = Compare { key: KEY.into(), mod_revision: self.key };
        let put = Op::Put { key: KEY.into(), value: Bytes::from(target.to_string()), lease: None };
        let answer = storage.txn(vec![compare], vec![put]).await?;
        self.seen = Some(answer.revision);
        if !answer.succeeded {
            let current = answer.current.into_iter().next().flatten();
            self.key = current.map_or(Revision(0), |kv| kv.mod_revision);
            return Ok(None);
        }
        self.key = answer.revision;
        if target == Revision(0) {
            return Ok(None);
        }
        match storage.compact(target).await {
            Ok(()) => Ok(Some(target)),
            // by hand, or by etcd itself
            Err(Error::Compacted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{Embedded, Options};

    async fn write(storage: &dyn Storage) -> Revision {
        let put = Op::Put { key: "/a".into(), value: Bytes::from_static(b"1"), lease: None };
        storage.txn(Vec::new(), vec![put]).await.unwrap().revision
    }

    #[tokio::test]
    async fn history_of_one_interval_is_kept() {
        let storage = Embedded::in_memory(Options::default());
        let mut compactor = Compactor::default();
        write(&*storage).await;
        assert_eq!(compactor.round(&*storage).await.unwrap(), None, "nothing is an interval old");
        let seen = storage.current_revision().await.unwrap();
        let written = write(&*storage).await;
        assert_eq!(compactor.round(&*storage).await.unwrap(), Some(seen));
        assert!(storage.watch("/", written).await.is_ok());
        // another began to compact further meanwhile: nothing is wrong
        let latest = storage.current_revision().await.unwrap();
        storage.compact(latest).await.unwrap();
        assert_eq!(compactor.round(&*storage).await.unwrap(), None);
        assert!(compactor.round(&*storage).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn of_several_servers_one_compacts_an_interval() {
        let storage = Embedded::in_memory(Options::default());
        let mut servers: Vec<Compactor> = (0..3).map(|_| Compactor::default()).collect();
        for interval in 0..6 {
            let mut compacted = Vec::new();
            for server in &mut servers {
                compacted.extend(server.round(&*storage).await.unwrap());
                write(&*storage).await;
            }
            assert_eq!(compacted.len(), usize::from(interval > 0), "in interval {interval}: {compacted:?}");
            if interval == 3 {
                // the one that was first is gone; the others take over
                servers.remove(0);
            }
        }
        let key = storage.get(KEY).await.unwrap().unwrap();
        let noted: i64 = String::from_utf8_lossy(&key.value).parse().unwrap();
        assert_eq!(storage.stats().compacted, Revision(noted));
    }

    #[tokio::test]
    async fn a_restarted_server_keeps_history_for_an_interval() {
        let storage = Embedded::in_memory(Options::default());
        let mut before = Compactor::default();
        before.round(&*storage).await.unwrap();
        before.round(&*storage).await.unwrap();
        let compacted = storage.stats().compacted;
        let mut after = Compactor::default();
        assert_eq!(after.round(&*storage).await.unwrap(), None, "it does not know how old the key is");
        assert_eq!(storage.stats().compacted, compacted);
        assert!(after.round(&*storage).await.unwrap().is_some());
    }
}
