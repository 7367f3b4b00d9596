/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/devmem-binding.yaml */
/* YNL-GEN uapi header */
/* YNL-ARG --function-prefix dmb */
/* To regenerate run: tools/net/ynl/ynl-regen.sh */

#ifndef _UAPI_LINUX_DEVMEM_BINDING_H
#define _UAPI_LINUX_DEVMEM_BINDING_H

#define DEVMEM_BINDING_FAMILY_NAME	"devmem-binding"
#define DEVMEM_BINDING_FAMILY_VERSION	1

#define DEVMEM_BINDING_MESSAGE_MAX	256
#define DEVMEM_BINDING_QUEUES_MAX	256

/**
 * enum devmem_binding_state - Whether a binding still is one.
 * @DEVMEM_BINDING_STATE_LIVE: The dma-buf is bound to the queues.
 * @DEVMEM_BINDING_STATE_GONE: The network device was unregistered, or left the
 *   network namespace. Nothing is bound any more; the handle remains to be
 *   closed.
 */
enum devmem_binding_state {
	DEVMEM_BINDING_STATE_LIVE,
	DEVMEM_BINDING_STATE_GONE,
};

/**
 * enum devmem_binding_reset - What goes back to the driver's default when the
 *   last holder of a binding is gone. It is for a creator to ask for what he
 *   changed himself.
 * @DEVMEM_BINDING_RESET_RSS: The indirection table of RSS.
 * @DEVMEM_BINDING_RESET_SPLIT: Header split (tcp-data-split) and its
 *   threshold.
 */
enum devmem_binding_reset {
	DEVMEM_BINDING_RESET_RSS = 1,
	DEVMEM_BINDING_RESET_SPLIT = 2,
};

/**
 * enum devmem_binding_outcome - What became of a setting that was to be reset.
 * @DEVMEM_BINDING_OUTCOME_NOT_ASKED: Nobody had asked for it.
 * @DEVMEM_BINDING_OUTCOME_DONE: It is at its default (or was already).
 * @DEVMEM_BINDING_OUTCOME_CHANGED: Somebody changed it since the binding was
 *   made. It was left alone.
 * @DEVMEM_BINDING_OUTCOME_HANDED_OVER: Another binding of this device is held,
 *   and resets it at its end.
 * @DEVMEM_BINDING_OUTCOME_IN_USE: A queue that the default would send traffic
 *   to is bound to device memory by someone else.
 * @DEVMEM_BINDING_OUTCOME_REFUSED: The driver or the kernel refused. The
 *   kernel's log says why.
 * @DEVMEM_BINDING_OUTCOME_UNSUPPORTED: This kernel cannot do it by netlink.
 * @DEVMEM_BINDING_OUTCOME_DEVICE_GONE: There is no device any more that it
 *   could be set on.
 */
enum devmem_binding_outcome {
	DEVMEM_BINDING_OUTCOME_NOT_ASKED,
	DEVMEM_BINDING_OUTCOME_DONE,
	DEVMEM_BINDING_OUTCOME_CHANGED,
	DEVMEM_BINDING_OUTCOME_HANDED_OVER,
	DEVMEM_BINDING_OUTCOME_IN_USE,
	DEVMEM_BINDING_OUTCOME_REFUSED,
	DEVMEM_BINDING_OUTCOME_UNSUPPORTED,
	DEVMEM_BINDING_OUTCOME_DEVICE_GONE,
};

enum {
	DEVMEM_BINDING_A_ID = 1,
	DEVMEM_BINDING_A_IFINDEX,
	DEVMEM_BINDING_A_DMABUF_ID,
	DEVMEM_BINDING_A_RX_PAGE_SIZE,
	DEVMEM_BINDING_A_QUEUE,
	DEVMEM_BINDING_A_STATE,
	DEVMEM_BINDING_A_RESET,
	DEVMEM_BINDING_A_RULES,
	DEVMEM_BINDING_A_CREATOR_PID,
	DEVMEM_BINDING_A_RULES_LEFT,
	DEVMEM_BINDING_A_RSS_OUTCOME,
	DEVMEM_BINDING_A_SPLIT_OUTCOME,

	__DEVMEM_BINDING_A_MAX,
	DEVMEM_BINDING_A_MAX = (__DEVMEM_BINDING_A_MAX - 1)
};

enum {
	DEVMEM_BINDING_CMD_GET = 1,
	DEVMEM_BINDING_CMD_CREATED_NTF,
	DEVMEM_BINDING_CMD_DEVICE_GONE_NTF,
	DEVMEM_BINDING_CMD_RELEASED_NTF,

	__DEVMEM_BINDING_CMD_MAX,
	DEVMEM_BINDING_CMD_MAX = (__DEVMEM_BINDING_CMD_MAX - 1)
};

#define DEVMEM_BINDING_MCGRP_EVENTS	"events"

#endif /* _UAPI_LINUX_DEVMEM_BINDING_H */
