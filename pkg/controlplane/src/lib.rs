//! Assembles storage, authentication, admission, resources and server into one API server.
