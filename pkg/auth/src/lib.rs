//! Authenticators and authorizers: client certificates, tokens, RBAC, Node.
