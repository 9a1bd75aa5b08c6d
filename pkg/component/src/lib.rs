//! What every binary shares: flags, feature gates, logs, metrics, health, HTTP serving and PKI.
