// SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause)
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/devmem-binding.yaml */
/* YNL-GEN kernel source */
/* YNL-ARG --function-prefix dmb */
/* To regenerate run: tools/net/ynl/ynl-regen.sh */

#include <net/netlink.h>
#include <net/genetlink.h>

#include "devmem_binding_nl.h"

#include <uapi/linux/devmem_binding.h>

/* DEVMEM_BINDING_CMD_GET - do */
static const struct nla_policy devmem_binding_get_do_nl_policy[DEVMEM_BINDING_A_ID + 1] = {
	[DEVMEM_BINDING_A_ID] = NLA_POLICY_MIN(NLA_U32, 1),
};

/* DEVMEM_BINDING_CMD_GET - dump */
static const struct nla_policy devmem_binding_get_dump_nl_policy[DEVMEM_BINDING_A_IFINDEX + 1] = {
	[DEVMEM_BINDING_A_IFINDEX] = NLA_POLICY_MIN(NLA_U32, 1),
};

/* Ops table for devmem_binding */
static const struct genl_split_ops devmem_binding_nl_ops[] = {
	{
		.cmd		= DEVMEM_BINDING_CMD_GET,
		.doit		= dmb_get_doit,
		.policy		= devmem_binding_get_do_nl_policy,
		.maxattr	= DEVMEM_BINDING_A_ID,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DEVMEM_BINDING_CMD_GET,
		.dumpit		= dmb_get_dumpit,
		.policy		= devmem_binding_get_dump_nl_policy,
		.maxattr	= DEVMEM_BINDING_A_IFINDEX,
		.flags		= GENL_CMD_CAP_DUMP,
	},
};

static const struct genl_multicast_group devmem_binding_nl_mcgrps[] = {
	[DEVMEM_BINDING_NLGRP_EVENTS] = { "events", },
};

struct genl_family devmem_binding_nl_family __ro_after_init = {
	.name		= DEVMEM_BINDING_FAMILY_NAME,
	.version	= DEVMEM_BINDING_FAMILY_VERSION,
	.netnsok	= true,
	.parallel_ops	= true,
	.module		= THIS_MODULE,
	.split_ops	= devmem_binding_nl_ops,
	.n_split_ops	= ARRAY_SIZE(devmem_binding_nl_ops),
	.mcgrps		= devmem_binding_nl_mcgrps,
	.n_mcgrps	= ARRAY_SIZE(devmem_binding_nl_mcgrps),
};
