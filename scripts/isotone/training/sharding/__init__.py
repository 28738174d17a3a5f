"""One model over many devices: each process holds a slice of every matrix, and of its latents and moments.

Matrices are sharded by FSDP2 (`torch.distributed.fsdp.fully_shard`), layer by layer;
vectors, a thousandth of the weights, are whole everywhere. With ``reduction: exact`` the
gradients are summed in the very tree of an unsharded run, so that sharding changes no bit.
"""
