//! The node agent: pod workers over CRI, volumes, probes, status, streaming endpoints.
