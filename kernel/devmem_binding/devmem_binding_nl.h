/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/devmem-binding.yaml */
/* YNL-GEN kernel header */
/* YNL-ARG --function-prefix dmb */
/* To regenerate run: tools/net/ynl/ynl-regen.sh */

#ifndef _LINUX_DEVMEM_BINDING_GEN_H
#define _LINUX_DEVMEM_BINDING_GEN_H

#include <net/netlink.h>
#include <net/genetlink.h>

#include <uapi/linux/devmem_binding.h>

int dmb_get_doit(struct sk_buff *skb, struct genl_info *info);
int dmb_get_dumpit(struct sk_buff *skb, struct netlink_callback *cb);

enum {
	DEVMEM_BINDING_NLGRP_EVENTS,
};

extern struct genl_family devmem_binding_nl_family;

#endif /* _LINUX_DEVMEM_BINDING_GEN_H */
