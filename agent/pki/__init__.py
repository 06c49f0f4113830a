"""Keys, certificates, CMS signatures, SCEP, and the verification of peers. No I/O."""
