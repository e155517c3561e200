def release_kv_cache(req, tree_cache, is_insert=True, allow_overallocated=False):
    tree_cache.released.append((req.rid, is_insert))
