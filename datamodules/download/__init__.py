"""Images of a list of addresses: fetched with care, recorded one by one, and turned into a manifest."""
