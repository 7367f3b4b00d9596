/* SPDX-License-Identifier: GPL-2.0 */
/* Everything that differs between the kernels this builds against (6.12 to 7.3), by the features Kbuild found. */
#ifndef DMB_COMPAT_H
#define DMB_COMPAT_H

#include <linux/ethtool_netlink.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/netdev_queues.h>
#include <uapi/linux/netdev.h>

#ifdef DMB_HAVE_OPS_LOCK
#include <net/netdev_lock.h>
#else
static inline void netdev_lock_ops(struct net_device *dev) { }
static inline void netdev_unlock_ops(struct net_device *dev) { }
#endif

/* The kernel's numbers, 0 where it has none. */
#ifdef DMB_HAVE_RSS_SET
#define DMB_RSS_SET		ETHTOOL_MSG_RSS_SET
#else
#define DMB_RSS_SET		0
#endif

#ifdef DMB_HAVE_HDS_THRESH
#define DMB_HDS_THRESH		ETHTOOL_A_RINGS_HDS_THRESH
#else
#define DMB_HDS_THRESH		0
#endif

#ifdef DMB_HAVE_RX_PAGE_SIZE
#define DMB_RX_PAGE_SIZE	NETDEV_A_DMABUF_RX_PAGE_SIZE
#else
#define DMB_RX_PAGE_SIZE	0
#endif

/* Whether device memory is bound to a queue; asked only where RSS can be set by netlink. */
static inline bool dmb_queue_unreadable(struct net_device *dev, unsigned int queue)
{
#ifdef DMB_HAVE_UNREADABLE_MP
	return netif_rxq_has_unreadable_mp(dev, queue);
#else
	return false;
#endif
}

#endif
