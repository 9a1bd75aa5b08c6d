//! Informers, work queues, leader election and event recording on kube's client.
