// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/session.h"

#include <grpc/support/time.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace devmem {

std::shared_ptr<Session> Session::Over(std::unique_ptr<HandleConnection> handles, const std::string& service_path) {
  auto session = std::shared_ptr<Session>(new Session);
  session->handles_ = std::move(handles);
  grpc::ChannelArguments arguments;
  // A connection of its own: a shared one would bring the dead daemon's back-off with it.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // resuming is ours: it knows the cursor
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // a ping for every message, to learn how long a unix socket takes
  arguments.SetMaxReceiveMessageSize(-1);         // a batch list is as long as its batches' sample ids and sources make it
  auto channel = grpc::CreateCustomChannel("unix:" + service_path, grpc::InsecureChannelCredentials(), arguments);
  session->stub_ = devmem_loader::v1::Loader::NewStub(channel);
  return session;
}

void Session::Authorize(grpc::ClientContext& context) const { context.AddMetadata("devmem-token", handles_->token()); }

void Session::ReleaseStream(const std::string& stream_id, Time deadline) {
  if (!handles_->alive()) return;  // it has given everything back; another one may answer on its socket
  grpc::ClientContext context;
  Authorize(context);
  context.set_deadline(ToGrpcDeadline(deadline));
  devmem_loader::v1::ReleaseStreamRequest request;
  request.set_stream_id(stream_id);
  devmem_loader::v1::ReleaseStreamResponse response;
  (void)stub_->ReleaseStream(&context, request, &response);
}

gpr_timespec ToGrpcDeadline(Time deadline) {
  constexpr Duration kForever = std::chrono::hours(24 * 365);
  const Time now = Clock::now();
  const Duration left = deadline <= now ? Duration::zero() : deadline - now >= kForever ? kForever : deadline - now;
  const int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(ns, GPR_TIMESPAN));
}

}  // namespace devmem
