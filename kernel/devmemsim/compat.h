/* SPDX-License-Identifier: GPL-2.0 */
/* Everything that differs between the kernels this builds against (6.12 to 7.3), by the features Kbuild found. */
#ifndef DEVMEMSIM_COMPAT_H
#define DEVMEMSIM_COMPAT_H

#include <linux/hrtimer.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/netdev_queues.h>
#include <net/page_pool/helpers.h>

#ifdef DMS_HAVE_OPS_LOCK
#include <net/netdev_lock.h>
#else
static inline void netdev_lock_ops(struct net_device *dev) { }
static inline void netdev_unlock_ops(struct net_device *dev) { }
#define napi_enable_locked	napi_enable
#define napi_disable_locked	napi_disable
#define netif_napi_del_locked	netif_napi_del
#endif

#ifdef DMS_HAVE_OPS_LOCK
#define dms_napi_add_fresh	netif_napi_add_locked
#else
#define dms_napi_add_fresh	netif_napi_add
#endif

#ifdef DMS_HAVE_NAPI_CONFIG
#define dms_napi_add		netif_napi_add_config_locked
#else
static inline void dms_napi_add(struct net_device *dev, struct napi_struct *napi,
				int (*poll)(struct napi_struct *, int), int index)
{
	dms_napi_add_fresh(dev, napi, poll);
}
#endif

#ifndef DMS_HAVE_HRTIMER_SETUP
static inline void hrtimer_setup(struct hrtimer *timer, enum hrtimer_restart (*function)(struct hrtimer *), clockid_t clock,
				 enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock, mode);
	timer->function = function;
}
#endif

#ifndef DMS_HAVE_ALLOC_NETMEMS
#define page_pool_alloc_netmems	page_pool_alloc_netmem
#endif

/* The queue's NAPI may put netmem back into the pool's cache without a lock, while it is the only one to allocate. */
static inline void dms_pool_attach(struct page_pool *pool, struct napi_struct *napi)
{
#ifdef DMS_HAVE_DIRECT_RECYCLING
	page_pool_enable_direct_recycling(pool, napi);
#endif
}

static inline void dms_pool_detach(struct page_pool *pool)
{
#ifdef DMS_HAVE_DIRECT_RECYCLING
	page_pool_disable_direct_recycling(pool);
#endif
}

static inline bool dms_pool_unreadable(const struct page_pool *pool)
{
	return pool->mp_priv;
}

static inline void dms_set_netmem_tx(struct net_device *dev)
{
#if defined(DMS_HAVE_NETMEM_TX)
	dev->netmem_tx = NETMEM_TX_DMA;
#elif defined(DMS_HAVE_NETMEM_TX_BIT)
	dev->netmem_tx = true;
#endif
}

#endif
