//! Sources of the test images and the OCI archives made of them.
