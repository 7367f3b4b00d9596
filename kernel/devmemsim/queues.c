// SPDX-License-Identifier: GPL-2.0
/*
 * Queues: starting and stopping them with the device, and the kernel's queue_mgmt_ops, by which a memory provider (a
 * dma-buf binding, io_uring zcrx) has one queue restarted with other memory. Only the memory is swapped; the NAPI, the
 * counters and the frames on the wire stay.
 */
#include <linux/log2.h>
#include <net/netdev_queues.h>

#include "devmemsim.h"

bool dms_split_on(const struct dms_port *port, const struct dms_rx_config *config)
{
	if (config->hds == ETHTOOL_TCP_DATA_SPLIT_UNKNOWN)
		return port->personality->split_refuses_off;
	return config->hds == ETHTOOL_TCP_DATA_SPLIT_ENABLED;
}

u32 dms_queue_page_size(struct dms_port *port, unsigned int index)
{
#ifdef DMS_HAVE_QCFG
	if (port->personality->max_rx_page) {
		struct netdev_queue_config qcfg;

		netdev_queue_config(port->dev, index, &qcfg);
		return qcfg.rx_page_size;
	}
#endif
	return PAGE_SIZE;
}

/* --- one queue -------------------------------------------------------------------------------------------------- */

/* Takes over @mem, which is left empty. */
static void dms_queue_run(struct dms_rxq *rxq, struct dms_rx_mem *mem)
{
	rxq->mem = *mem;
	memset(mem, 0, sizeof(*mem));
	dms_pool_attach(rxq->mem.pool, &rxq->napi);
	napi_enable_locked(&rxq->napi);
	WRITE_ONCE(rxq->running, true);
	local_bh_disable();
	napi_schedule(&rxq->napi);	/* for the frames that came while it stood */
	local_bh_enable();
}

/* Leaves the queue's memory in @mem. */
static void dms_queue_halt(struct dms_rxq *rxq, struct dms_rx_mem *mem)
{
	WRITE_ONCE(rxq->running, false);
	synchronize_net();	/* dms_rx_kick() */
	hrtimer_cancel(&rxq->moderation);
	napi_disable_locked(&rxq->napi);
	local_bh_disable();
	dms_gro_flush(rxq, true);	/* the core may have ended a poll that was to go on */
	local_bh_enable();
	dms_pool_detach(rxq->mem.pool);
	*mem = rxq->mem;
	memset(&rxq->mem, 0, sizeof(rxq->mem));
}

static void dms_queue_add_napi(struct dms_rxq *rxq)
{
	struct net_device *dev = rxq->port->dev;

	if (rxq->port->personality->reset_renews_napi)
		dms_napi_add_fresh(dev, &rxq->napi, dms_poll);
	else
		dms_napi_add(dev, &rxq->napi, dms_poll, rxq->index);
	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_RX, &rxq->napi);
	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_TX, &rxq->napi);
}

static void dms_queue_del_napi(struct dms_rxq *rxq)
{
	struct net_device *dev = rxq->port->dev;

	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_RX, NULL);
	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_TX, NULL);
	netif_napi_del_locked(&rxq->napi);
}

/* --- several ------------------------------------------------------------------------------------------------------ */

static void dms_queue_stop_one(struct dms_rxq *rxq)
{
	struct dms_rx_mem mem;

	dms_queue_halt(rxq, &mem);
	dms_gro_free(rxq);
	dms_queue_del_napi(rxq);
	dms_rx_mem_free(&mem);
}

static int dms_queue_start_one(struct dms_rxq *rxq)
{
	struct dms_port *port = rxq->port;
	struct dms_rx_mem mem;
	int err;

	err = dms_gro_alloc(rxq);
	if (err)
		return err;
	err = dms_rx_mem_alloc(rxq, &mem, &port->config, dms_queue_page_size(port, rxq->index), false);
	if (err) {
		dms_gro_free(rxq);
		return err;
	}
	dms_queue_add_napi(rxq);
	dms_queue_run(rxq, &mem);
	return 0;
}

/* Queues [from, to): all of them run, or none. */
int dms_queues_start(struct dms_port *port, unsigned int from, unsigned int to)
{
	unsigned int i;
	int err;

	for (i = from; i < to; i++) {
		err = dms_queue_start_one(&port->rxq[i]);
		if (err) {
			dms_queues_stop(port, from, i);
			return err;
		}
	}
	return 0;
}

/* The frames on the wire to them stay there; dms_rx_purge() when no more can come. */
void dms_queues_stop(struct dms_port *port, unsigned int from, unsigned int to)
{
	while (to > from)
		dms_queue_stop_one(&port->rxq[--to]);
}

static void dms_swap(struct dms_rxq *rxq, struct dms_rx_mem *mem)
{
	struct dms_rx_mem old;

	dms_queue_halt(rxq, &old);
	dms_rx_mem_free(&old);	/* first: the new ring may be waiting for the same device memory */
	dms_queue_run(rxq, mem);
}

/* Every running queue gets memory of @config; nothing changes unless all of it could be had. */
int dms_queues_reconfigure(struct dms_port *port, const struct dms_rx_config *config)
{
	struct dms_rx_mem *mem;
	unsigned int i;
	int err = 0;

	if (!netif_running(port->dev)) {
		port->config = *config;
		return 0;
	}
	mem = kcalloc(port->channels, sizeof(*mem), GFP_KERNEL);
	if (!mem)
		return -ENOMEM;
	for (i = 0; i < port->channels && !err; i++)
		err = dms_rx_mem_alloc(&port->rxq[i], &mem[i], config, dms_queue_page_size(port, i), true);
	if (err) {
		while (--i)
			dms_rx_mem_free(&mem[i - 1]);
	} else {
		for (i = 0; i < port->channels; i++)
			dms_swap(&port->rxq[i], &mem[i]);
		port->config = *config;
	}
	kfree(mem);
	return err;
}

/* What a driver's own recovery does to a queue: new memory of the same kind, and for some a new NAPI. */
int dms_queue_reset(struct dms_port *port, unsigned int index)
{
	struct dms_rxq *rxq = &port->rxq[index];
	struct dms_rx_mem mem;
	int err;

	if (!netif_running(port->dev) || index >= port->channels)
		return -ENETDOWN;
	if (port->personality->reset_renews_napi) {
		dms_queue_stop_one(rxq);
		err = dms_queue_start_one(rxq);
		if (err)
			netdev_err(port->dev, "queue %u did not come back from its reset: %d\n", index, err);
		return err;
	}
	err = dms_rx_mem_alloc(rxq, &mem, &port->config, dms_queue_page_size(port, index), true);
	if (!err)
		dms_swap(rxq, &mem);
	return err;
}

/* --- queue_mgmt_ops ------------------------------------------------------------------------------------------------ */

/* mlx5 and gve hold up every queue while they restart one. */
static void dms_pause_others(struct dms_port *port, int but, bool pause)
{
	unsigned int i;

	if (!port->personality->restart_stops_all)
		return;
	for (i = 0; i < port->channels; i++) {
		struct dms_rxq *rxq = &port->rxq[i];

		if (i == but || rxq->running != pause)
			continue;
		if (pause) {
			WRITE_ONCE(rxq->running, false);
			synchronize_net();
			hrtimer_cancel(&rxq->moderation);
			napi_disable_locked(&rxq->napi);
			port->pauses++;
		} else {
			napi_enable_locked(&rxq->napi);
			WRITE_ONCE(rxq->running, true);
			local_bh_disable();
			napi_schedule(&rxq->napi);
			local_bh_enable();
		}
	}
}

static int dms_mem_alloc(struct net_device *dev, void *queue_mem, int index, u32 page_size)
{
	struct dms_port *port = dms_port(dev);
	struct dms_rx_mem *mem = queue_mem;
	int err;

	if (port->personality->unbind_down_errno && !netif_running(dev))
		return port->personality->unbind_down_errno;
	err = dms_rx_mem_alloc(&port->rxq[index], mem, &port->config, page_size, true);
	if (!err && !mem->head && dms_pool_unreadable(mem->pool)) {	/* to bind what has not one buffer is no use */
		dms_rx_mem_free(mem);
		err = -ENOMEM;
	}
	return err;
}

static int dms_start(struct net_device *dev, void *mem, int index)
{
	struct dms_port *port = dms_port(dev);

	if (!netif_running(dev)) {	/* opening will make its own */
		dms_rx_mem_free(mem);
		return 0;
	}
	dms_queue_run(&port->rxq[index], mem);
	dms_pause_others(port, index, false);
	port->restarts++;
	return 0;
}

static int dms_stop_queue(struct net_device *dev, void *mem, int index)
{
	struct dms_port *port = dms_port(dev);

	if (!netif_running(dev)) {	/* 6.12 restarts a queue of a device that is down, too; its NAPI is disabled already */
		memset(mem, 0, sizeof(struct dms_rx_mem));
		return 0;
	}
	dms_pause_others(port, index, true);
	dms_queue_halt(&port->rxq[index], mem);
	return 0;
}

static void dms_mem_free(struct net_device *dev, void *mem)
{
	dms_rx_mem_free(mem);
}

#ifdef DMS_HAVE_QCFG
static int dms_qcfg_mem_alloc(struct net_device *dev, struct netdev_queue_config *qcfg, void *mem, int index)
{
	return dms_mem_alloc(dev, mem, index, dms_port(dev)->personality->max_rx_page ? qcfg->rx_page_size : PAGE_SIZE);
}

static int dms_qcfg_start(struct net_device *dev, struct netdev_queue_config *qcfg, void *mem, int index)
{
	return dms_start(dev, mem, index);
}

static void dms_default_qcfg(struct net_device *dev, struct netdev_queue_config *qcfg)
{
	qcfg->rx_page_size = PAGE_SIZE;
}

static int dms_validate_qcfg(struct net_device *dev, struct netdev_queue_config *qcfg, struct netlink_ext_ack *extack)
{
	u32 most = dms_port(dev)->personality->max_rx_page;

	if (!is_power_of_2(qcfg->rx_page_size) || qcfg->rx_page_size < PAGE_SIZE || qcfg->rx_page_size > most) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "rx-page-size %u is not a power of two from %lu to %u",
				       qcfg->rx_page_size, PAGE_SIZE, most);
		return -EINVAL;
	}
	return 0;
}
#define DMS_QUEUE_OPS							\
	.ndo_queue_mem_size = sizeof(struct dms_rx_mem),		\
	.ndo_queue_mem_alloc = dms_qcfg_mem_alloc,			\
	.ndo_queue_mem_free = dms_mem_free,				\
	.ndo_queue_start = dms_qcfg_start,				\
	.ndo_queue_stop = dms_stop_queue
static const struct netdev_queue_mgmt_ops dms_queue_ops_large = {
	DMS_QUEUE_OPS,
	.ndo_default_qcfg = dms_default_qcfg,
	.ndo_validate_qcfg = dms_validate_qcfg,
	.supported_params = QCFG_RX_PAGE_SIZE,
};
#else
#define DMS_QUEUE_OPS							\
	.ndo_queue_mem_size = sizeof(struct dms_rx_mem),		\
	.ndo_queue_mem_alloc = dms_page_mem_alloc,			\
	.ndo_queue_mem_free = dms_mem_free,				\
	.ndo_queue_start = dms_start,					\
	.ndo_queue_stop = dms_stop_queue
static int dms_page_mem_alloc(struct net_device *dev, void *mem, int index)
{
	return dms_mem_alloc(dev, mem, index, PAGE_SIZE);
}
#endif
static const struct netdev_queue_mgmt_ops dms_queue_ops = { DMS_QUEUE_OPS };

/* Before register_netdev(). */
void dms_queues_init(struct dms_port *port)
{
	port->dev->queue_mgmt_ops = &dms_queue_ops;
#ifdef DMS_HAVE_QCFG
	if (port->personality->max_rx_page)
		port->dev->queue_mgmt_ops = &dms_queue_ops_large;
#endif
}
