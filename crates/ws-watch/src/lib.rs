//! Watches a working tree, and knows whether what a build made is still good: the real
//! [`ws_core::files::Files`].
