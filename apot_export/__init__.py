"""apot-export: trained powers-of-two networks to deployable, proven shift-add artifacts."""
