//! Display in zdb's wording.
