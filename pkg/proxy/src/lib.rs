//! The service proxy in iptables mode: one complete rule text from services and endpoints.
