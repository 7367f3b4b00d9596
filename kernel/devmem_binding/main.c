// SPDX-License-Identifier: GPL-2.0
/* Loading and unloading. Unloading is refused while a handle is held: each is a reference to the module. */
#include <linux/module.h>

#include "binding.h"

/* Both sides of the ioctls are compiled from one header; this is for those who are not, and for 32 bits. */
static_assert(sizeof(struct devmem_binding_create) == 64);
static_assert(offsetof(struct devmem_binding_create, queues) == 16);
static_assert(offsetof(struct devmem_binding_create, queue_count) == 24);
static_assert(offsetof(struct devmem_binding_create, message) == 40);
static_assert(offsetof(struct devmem_binding_create, id) == 48);
static_assert(sizeof(struct devmem_binding_flow) == 40);
static_assert(offsetof(struct devmem_binding_flow, src_port) == 4);
static_assert(offsetof(struct devmem_binding_flow, src) == 8);
static_assert(offsetof(struct devmem_binding_flow, dst) == 24);
static_assert(sizeof(struct devmem_binding_rule) == 48);
static_assert(offsetof(struct devmem_binding_rule, flow) == 8);
static_assert(sizeof(struct devmem_binding_rule_change) == 64);
static_assert(offsetof(struct devmem_binding_rule_change, message_size) == 48);
static_assert(offsetof(struct devmem_binding_rule_change, message) == 56);
static_assert(sizeof(struct devmem_binding_info) == 64);
static_assert(offsetof(struct devmem_binding_info, netns_cookie) == 32);
static_assert(offsetof(struct devmem_binding_info, rules) == 48);
static_assert(offsetof(struct devmem_binding_info, rule_count) == 60);

static int __init dmb_init(void)
{
	int err;

	err = dmb_registry_init();
	if (err)
		return err;
	err = dmb_family_init();
	if (err)
		goto err_registry;
	err = dmb_device_init();
	if (err)
		goto err_family;
	return 0;

err_family:
	dmb_family_exit();
err_registry:
	dmb_registry_exit();
	return err;
}

static void __exit dmb_exit(void)
{
	dmb_device_exit();
	dmb_family_exit();
	dmb_registry_exit();
}

module_init(dmb_init);
module_exit(dmb_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Device-memory bindings with their steering rules, held by a file descriptor");
