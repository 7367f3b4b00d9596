// SPDX-License-Identifier: Apache-2.0
// DyingKernel: the real kernel, and a SIGKILL before or after the n-th call that changes the NIC.
#pragma once

#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "net/rx/rx_kernel.h"

namespace devmem {

// Moments pass as calls are made: one before each, one after.
class Fate {
 public:
  explicit Fate(std::optional<uint64_t> dies_at) : dies_at_(dies_at) {}
  void Moment() {
    if (dies_at_ == passed_++) kill(getpid(), SIGKILL);
  }
  [[nodiscard]] uint64_t passed() const { return passed_; }

 private:
  const std::optional<uint64_t> dies_at_;
  uint64_t passed_ = 0;
};

class DyingKernel final : public RxKernel, private Ethtool, private FlowRules {
 private:
  template <typename Call>
  auto Between(Call call) {
    fate_.Moment();
    auto result = call();
    fate_.Moment();
    return result;
  }

 public:
  DyingKernel(std::unique_ptr<RxKernel> real, Fate& fate) : real_(std::move(real)), fate_(fate) {}

  Netdev& netdev() override { return real_->netdev(); }
  Ethtool& ethtool() override { return *this; }
  FlowRules& rules() override { return *this; }
  absl::StatusOr<Link> FindLink(const std::string& interface) override { return real_->FindLink(interface); }
  absl::StatusOr<Link> FindLink(uint32_t ifindex) override { return real_->FindLink(ifindex); }
  std::vector<std::string> Interfaces() override { return real_->Interfaces(); }
  absl::StatusOr<std::unique_ptr<Bound>> Bind(const Link& link, int fd, std::span<const uint32_t> queues, uint32_t size,
                                              const ResetAtEnd& reset) override {
    return Between([&]() -> absl::StatusOr<std::unique_ptr<Bound>> {
      absl::StatusOr<std::unique_ptr<Bound>> bound = real_->Bind(link, fd, queues, size, reset);
      if (bound.ok()) return std::make_unique<DyingBound>(*std::move(bound), fate_);
      return bound;
    });
  }
  absl::StatusOr<std::unique_ptr<Bound>> Adopt(UniqueFd fd, bool by_handle, uint32_t id) override {
    return real_->Adopt(std::move(fd), by_handle, id);
  }
  void FreeDeferred() override { real_->FreeDeferred(); }
  void Pause(Duration duration) override { real_->Pause(duration); }

 private:
  struct DyingBound final : Bound, FlowRules {
    DyingBound(std::unique_ptr<Bound> of, Fate& whose) : real(std::move(of)), fate(whose) {}
    ~DyingBound() override {
      fate.Moment();
      real.reset();
      fate.Moment();
    }
    [[nodiscard]] uint32_t id() const override { return real->id(); }
    [[nodiscard]] bool by_handle() const override { return real->by_handle(); }
    [[nodiscard]] FlowRules& rules() override { return *this; }
    absl::StatusOr<UniqueFd> Share() override { return real->Share(); }

    absl::StatusOr<RuleBudget> Budget(const std::string& i) override { return real->rules().Budget(i); }
    absl::StatusOr<std::vector<FlowRule>> List(const std::string& i) override { return real->rules().List(i); }
    absl::StatusOr<uint32_t> Insert(const std::string& i, const FlowMatch& match, uint32_t queue) override {
      fate.Moment();
      const absl::StatusOr<uint32_t> location = real->rules().Insert(i, match, queue);
      fate.Moment();
      return location;
    }
    absl::Status Delete(const std::string& i, uint32_t location, const FlowMatch& match, uint32_t queue) override {
      fate.Moment();
      const absl::Status status = real->rules().Delete(i, location, match, queue);
      fate.Moment();
      return status;
    }
    std::unique_ptr<Bound> real;
    Fate& fate;
  };

  absl::StatusOr<std::string> Driver(const std::string& i) override { return real_->ethtool().Driver(i); }
  absl::StatusOr<NicIdentity> Identity(const std::string& i) override { return real_->ethtool().Identity(i); }
  absl::StatusOr<Rings> GetRings(const std::string& i) override { return real_->ethtool().GetRings(i); }
  absl::Status SetHeaderSplit(const std::string& i, HeaderSplit split, std::optional<uint32_t> threshold) override {
    return Between([&] { return real_->ethtool().SetHeaderSplit(i, split, threshold); });
  }
  absl::StatusOr<Channels> GetChannels(const std::string& i) override { return real_->ethtool().GetChannels(i); }
  absl::StatusOr<Feature> GetFeature(const std::string& i, const std::string& name) override {
    return real_->ethtool().GetFeature(i, name);
  }
  absl::Status SetFeature(const std::string& i, const std::string& name, bool on) override {
    return Between([&] { return real_->ethtool().SetFeature(i, name, on); });
  }
  absl::StatusOr<RssTable> GetRss(const std::string& i, uint32_t context) override {
    return real_->ethtool().GetRss(i, context);
  }
  absl::StatusOr<std::vector<uint32_t>> RssContexts(const std::string& i) override { return real_->ethtool().RssContexts(i); }
  absl::Status SetRss(const std::string& i, const RssTable& table) override {
    return Between([&] { return real_->ethtool().SetRss(i, table); });
  }
  absl::Status ResetRss(const std::string& i) override {
    return Between([&] { return real_->ethtool().ResetRss(i); });
  }

  absl::StatusOr<RuleBudget> Budget(const std::string& i) override { return real_->rules().Budget(i); }
  absl::StatusOr<std::vector<FlowRule>> List(const std::string& i) override { return real_->rules().List(i); }
  absl::StatusOr<uint32_t> Insert(const std::string& i, const FlowMatch& match, uint32_t queue) override {
    return Between([&] { return real_->rules().Insert(i, match, queue); });
  }
  absl::Status Delete(const std::string& i, uint32_t location, const FlowMatch& match, uint32_t queue) override {
    return Between([&] { return real_->rules().Delete(i, location, match, queue); });
  }

  const std::unique_ptr<RxKernel> real_;
  Fate& fate_;
};

}  // namespace devmem
