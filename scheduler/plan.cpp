// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "trainer/contract/architecture.h"

namespace scheduler {
namespace {

using accounting::Amount;
using accounting::usage_amount;

constexpr std::int64_t kMinute = 60;
constexpr std::int64_t kHour = 3'600;
constexpr std::int64_t kShortestLimit_s = 2 * kMinute;
constexpr std::int64_t kLongestLimit_s = 366 * 24 * kHour;

std::int64_t round_up_to_minute(std::int64_t seconds) {
  return (seconds + kMinute - 1) / kMinute * kMinute;
}

// "30 s", "90 min", "2.5 h": for people.
std::string duration_text(std::int64_t seconds) {
  if (seconds % kMinute != 0) return fmt::format("{} s", seconds);
  if (seconds < 2 * kHour) return fmt::format("{} min", seconds / kMinute);
  if (seconds % kHour == 0) return fmt::format("{} h", seconds / kHour);
  return fmt::format("{:.2f} h", static_cast<double>(seconds) / static_cast<double>(kHour));
}

std::string gpus_text(std::int64_t gpus) {
  return fmt::format("{} {}", gpus, gpus == 1 ? "GPU" : "GPUs");
}

std::string nodes_text(std::int64_t nodes) {
  return fmt::format("{} {}", nodes, nodes == 1 ? "node" : "nodes");
}

// Work of one image relative to YOLOv8n. A model of the user's own counts as the largest known.
double model_factor(const std::string& model) {
  const double of_n = contract::published_gflops("yolov8n").value();
  const double most = contract::published_gflops("yolov8x").value();
  return contract::published_gflops(model).value_or(most) / of_n;
}

// Only what Slurm, file systems and shells take without a thought.
std::string sanitise_name(std::string_view text) {
  constexpr std::size_t kLengthMax = 64;
  std::string name;
  for (const char c : text) {
    const bool is_plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                          (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    const char kept = is_plain ? c : '-';
    if (kept == '-' && name.ends_with('-')) continue;
    name += kept;
    if (name.size() == kLengthMax) break;
  }
  // "-x" would look like an option, ".x" like a hidden file.
  const std::size_t first = name.find_first_not_of("-.");
  return first == std::string::npos ? "run" : name.substr(first);
}

std::string plan_name(const TrainingRequest& request) {
  if (!request.resources.name.empty()) return sanitise_name(request.resources.name);
  const std::string stem = std::filesystem::path(request.args.data).stem().string();
  return sanitise_name(contract::model_name(request.args.model) + (stem.empty() ? "" : "-" + stem));
}

// The plan in the making and all that speaks against it.
class Planner {
 public:
  Planner(const TrainingRequest& request, const Site& site, const ClusterFacts& facts,
          const DataFacts& data, const Progress& progress, accounting::UtcSeconds now,
          const accounting::RateLookup& rates)
      : request_(request),
        site_(site),
        facts_(facts),
        data_(data),
        progress_(progress),
        now_(now),
        rates_(rates) {}

  PlanOutcome outcome(const std::string& user) {
    choose_type();
    choose_layout();
    choose_account(user);
    if (!facts_.ends_jobs(plan_.partition)) {
      refuse("partition = \"{}\": {}", plan_.partition, kNothingEndsJobs);
    } else if (request_.args.time_h) {
      plan_hours();
    } else {
      plan_epochs();
    }
    if (refusal_.reasons.empty()) price();
    if (!refusal_.reasons.empty()) return refusal_;
    return plan_;
  }

 private:
  template <typename... Args>
  void refuse(fmt::format_string<Args...> format, Args&&... args) {
    refusal_.reasons.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  std::string at(int line) const { return fmt::format("{}:{}", site_.path, line); }

  void choose_type() {
    const std::string& asked = request_.resources.type;
    plan_.type = asked.empty() ? site_.default_type : asked;
    type_ = site_.find_type(plan_.type);
    if (type_ == nullptr) {
      std::vector<std::string> known;
      for (const InstanceType& type : site_.types) known.push_back(type.name);
      refuse("type = \"{}\" is not known. Known types: {} ({}).", plan_.type,
             fmt::join(known, ", "), site_.path);
      return;
    }
    const auto weight = accounting::weight_at(type_->weights, now_);
    if (weight) {
      plan_.quote.weight_milli = *weight;
    } else {
      refuse("type = \"{}\" has no weight at {}; its first is in force from {} ({}).", type_->name,
             accounting::format_utc(now_),
             type_->weights.empty() ? "no date" : accounting::format_utc(type_->weights[0].from),
             at(type_->line));
    }
  }

  void choose_layout() {
    const std::int64_t gpus = request_.resources.gpus.value_or(site_.default_gpus);
    std::int64_t nodes = request_.resources.nodes.value_or(1);
    if (!request_.resources.nodes && type_ != nullptr && type_->gpus_per_node > 0) {
      nodes = std::max<std::int64_t>(1, (gpus + type_->gpus_per_node - 1) / type_->gpus_per_node);
      // As many on each; where the type has too few nodes for that, the refusal is about these.
      while (nodes < type_->nodes && nodes < gpus && gpus % nodes != 0) ++nodes;
      if (gpus >= 1 && gpus % nodes != 0) {
        nodes = (gpus + type_->gpus_per_node - 1) / type_->gpus_per_node;
      }
    }
    if (gpus < 1 || nodes < 1) {
      refuse("gpus = {} and nodes = {}: both are at least 1.", gpus, nodes);
      return;
    }
    check_limits(gpus, nodes);
    check_batch(gpus);
    check_nodes(gpus, nodes);
    plan_.gpus = plan_.ranks = static_cast<int>(gpus);
    plan_.nodes = static_cast<int>(nodes);
    plan_.gpus_per_node = plan_.ranks_per_node = static_cast<int>(gpus / nodes);
    plan_.batch_per_rank = static_cast<int>(request_.args.batch / gpus);
    if (type_ == nullptr) return;
    plan_.tres_per_node = fmt::format("gres:{}:{}", type_->gres, plan_.gpus_per_node);
    plan_.cpus_per_rank = type_->cpus_per_gpu;
    plan_.memory_per_node_mb = type_->memory_per_gpu_mb * plan_.gpus_per_node;
  }

  void check_limits(std::int64_t gpus, std::int64_t nodes) {
    const Limits& limits = site_.limits;
    if (limits.max_gpus && gpus > *limits.max_gpus) {
      refuse("gpus = {} exceeds the limit of {} for a run ({}). Ask for {} or fewer.", gpus,
             *limits.max_gpus, at(limits.line), *limits.max_gpus);
    }
    if (limits.max_nodes && nodes > *limits.max_nodes) {
      refuse("nodes = {} exceeds the limit of {} for a run ({}). Ask for {} or fewer.", nodes,
             *limits.max_nodes, at(limits.line), *limits.max_nodes);
    }
    if (type_ == nullptr) return;
    const std::int64_t gpus_max = std::int64_t{type_->nodes} * type_->gpus_per_node;
    if (gpus > gpus_max) {
      refuse("gpus = {} exceeds the {} of type \"{}\" ({} x {}, {}). Ask for {} or fewer.", gpus,
             gpus_text(gpus_max), type_->name, nodes_text(type_->nodes),
             gpus_text(type_->gpus_per_node), at(type_->line), gpus_max);
    } else if (nodes > type_->nodes) {
      refuse("nodes = {} exceeds the {} of type \"{}\" ({}). Ask for {} or fewer.", nodes,
             nodes_text(type_->nodes), type_->name, at(type_->line), type_->nodes);
    }
  }

  void check_batch(std::int64_t gpus) {
    const std::int64_t batch = request_.args.batch;
    if (request_.args.has_auto_batch()) {
      if (gpus == 1) return;
      refuse("batch is to be found by trial, which needs one GPU, not {}. Give batch = {}.", gpus,
             16 * gpus);
      return;
    }
    if (batch > 0 && batch % gpus == 0) return;
    const std::int64_t below = batch / gpus * gpus;
    const std::string fits =
        below > 0 ? fmt::format("{} or {}", below, below + gpus) : fmt::format("{}", gpus);
    refuse("batch = {} is not divided evenly by {}. batch = {} would fit.", batch, gpus_text(gpus),
           fits);
  }

  void check_nodes(std::int64_t gpus, std::int64_t nodes) {
    if (gpus % nodes != 0) {
      const std::int64_t below = gpus / nodes * nodes;
      const std::string fits =
          below > 0 ? fmt::format("{} or {}", below, below + nodes) : fmt::format("{}", nodes);
      refuse("gpus = {} is not divided evenly by {}. gpus = {} would fit.", gpus, nodes_text(nodes),
             fits);
      return;
    }
    if (type_ == nullptr) return;
    const std::int64_t per_node = gpus / nodes;
    if (per_node > type_->gpus_per_node &&
        gpus <= std::int64_t{type_->nodes} * type_->gpus_per_node) {
      refuse(
          "gpus = {} on nodes = {} takes {} a node; type \"{}\" has {} ({}). nodes = {} would "
          "fit.",
          gpus, nodes, gpus_text(per_node), type_->name, gpus_text(type_->gpus_per_node),
          at(type_->line), fewest_nodes(gpus));
    }
    // Slurm gives an exclusive job every GPU of its nodes, whatever it asked for.
    const auto exclusive = request_.resources.slurm.find("exclusive");
    if (exclusive != request_.resources.slurm.end() && exclusive->second == "true" &&
        per_node < type_->gpus_per_node) {
      refuse(
          "slurm.exclusive takes all {} of a node; this run asks for {} a node and would hold "
          "too little. gpus = {} would fit.",
          gpus_text(type_->gpus_per_node), per_node, type_->gpus_per_node * nodes);
    }
  }

  // The fewest nodes of the type that hold `gpus` evenly.
  std::int64_t fewest_nodes(std::int64_t gpus) const {
    for (std::int64_t nodes = 1; nodes < gpus; ++nodes) {
      if (gpus % nodes == 0 && gpus / nodes <= type_->gpus_per_node) return nodes;
    }
    return gpus;
  }

  void choose_account(const std::string& user) {
    const Resources& asked = request_.resources;
    plan_.fund = asked.fund.empty() ? "user:" + user : asked.fund;
    plan_.account = asked.account.empty() ? site_.default_account : asked.account;
    plan_.qos = asked.qos.empty() ? site_.default_qos : asked.qos;
    plan_.name = plan_name(request_);
    plan_.slurm = asked.slurm;
    if (type_ == nullptr) return;
    plan_.partition = asked.partition.empty() ? type_->partition : asked.partition;
    if (plan_.partition == type_->partition) return;
    const InstanceType* priced = site_.find_type_at(plan_.partition, type_->gres);
    // Without a type in the GRES the partition alone tells which GPUs come, and so what they cost.
    if (type_->gres.find(':') == std::string::npos) {
      refuse(
          "partition = \"{}\" is not the \"{}\" of type \"{}\" ({}), whose GPUs Slurm knows by "
          "their partition only. Leave partition out or choose another type.",
          plan_.partition, type_->partition, type_->name, at(type_->line));
    } else if (priced != nullptr) {
      refuse("partition = \"{}\" is that of type \"{}\" ({}), which has its own weight. Ask for type = "
             "\"{}\", or leave partition out.",
             plan_.partition, priced->name, at(priced->line), priced->name);
    }
  }

  void plan_hours() {
    plan_.is_timed = true;
    plan_.quote.basis = "hours asked for";
    if (data_.train_images >= 1) work_of_epoch();
    const double asked_s = *request_.args.time_h * static_cast<double>(kHour);
    if (!(asked_s > 0) || asked_s > static_cast<double>(kLongestLimit_s)) {
      refuse("time = {} h is outside what can be planned (up to {}).", *request_.args.time_h,
             duration_text(kLongestLimit_s));
      return;
    }
    const std::int64_t hours_s = std::llround(asked_s);
    const std::int64_t left_s = hours_s - std::max<std::int64_t>(progress_.allocated_s, 0);
    const std::string left =
        left_s == hours_s ? fmt::format("time = {}", duration_text(hours_s))
                          : fmt::format("time = {}, of which {} are used,", duration_text(hours_s),
                                        duration_text(progress_.allocated_s));
    plan_.auto_resume = request_.resources.auto_resume;
    if (!plan_.auto_resume) check_longest(left, left_s, kAskForFewerHours);
    if (type_ == nullptr) return;

    const std::int64_t margin_s = facts_.margin_s(plan_.partition);
    const std::int64_t needed_s = margin_s + type_->startup_s + kMinute;
    plan_.time_limit_s = (left_s - margin_s) / kMinute * kMinute;
    if (left_s < needed_s || plan_.time_limit_s < kMinute) {
      refuse(
          "{} leaves {}, shorter than the {} that a run needs (margin {} + start-up {} + 1 "
          "min).",
          left, duration_text(std::max<std::int64_t>(left_s, 0)), duration_text(needed_s),
          duration_text(margin_s), duration_text(type_->startup_s));
      return;
    }
    if (plan_.auto_resume) {
      fit_into_jobs(left_s, needed_s);
    } else {
      check_partition("a job of " + duration_text(plan_.time_limit_s), plan_.time_limit_s,
                      kAskForFewerHours);
    }
    plan_.quote.expected_s = left_s;
    held_s_ = left_s;
  }

  // One job, where the hours fit into it or hardly more than it.
  void fit_into_jobs(std::int64_t left_s, std::int64_t needed_s) {
    plan_.job_shortest_s = needed_s - facts_.margin_s(plan_.partition);
    if (plan_.time_limit_s <= longest_s()) return;
    plan_.time_limit_s = longest_s();
    if (left_s - longest_s() >= needed_s) plan_.job_limit_s = longest_s();
    const std::int64_t shortest_s = round_up_to_minute(plan_.job_shortest_s) + kMinute;
    if (longest_s() >= shortest_s) return;
    refuse("a job of partition \"{}\" lasts {} at most, shorter than the {} that each job of a run "
           "needs (start-up {} + 2 min).",
           plan_.partition, duration_text(longest_s()), duration_text(shortest_s),
           duration_text(type_->startup_s));
  }

  void plan_epochs() {
    const std::optional<std::int64_t>& asked_s = request_.resources.time_limit_s;
    plan_.auto_resume = request_.resources.auto_resume;
    if (type_ == nullptr) {
      if (asked_s) check_longest("time_limit = " + duration_text(*asked_s), *asked_s, kAskForLess);
      return;
    }
    const std::optional<std::int64_t> rest_s = estimate_rest_s();
    if (asked_s) {
      limit_as_asked(*asked_s, rest_s);
    } else if (rest_s) {
      plan_.time_limit_s =
          std::max(kShortestLimit_s,
                   round_up_to_minute(type_->startup_s + *rest_s + band_s(*rest_s) + kMinute));
      if (plan_.auto_resume) plan_.time_limit_s = std::min(plan_.time_limit_s, longest_s());
      const std::string what =
          "the limit from the estimate, " + duration_text(plan_.time_limit_s) + ",";
      if (check_longest(what, plan_.time_limit_s, kAskForAnotherWay)) {
        check_partition(what, plan_.time_limit_s, kAskForAnotherWay);
      }
    } else {
      refuse("{} train images: no estimate can be made. Give a time limit.", data_.train_images);
    }
    plan_.quote.expected_s =
        rest_s ? std::min(type_->startup_s + *rest_s, plan_.time_limit_s) : plan_.time_limit_s;
    if (rest_s) {
      plan_.quote.low_s = type_->startup_s + *rest_s - band_s(*rest_s);
      plan_.quote.high_s = type_->startup_s + *rest_s + band_s(*rest_s);
    }
    held_s_ = plan_.time_limit_s + facts_.margin_s(plan_.partition);
  }

  // How much longer or shorter than the estimate it may take, rounded up.
  std::int64_t band_s(std::int64_t rest_s) const {
    return rest_s / 1'000 * band_permille_ + (rest_s % 1'000 * band_permille_ + 999) / 1'000;
  }

  void limit_as_asked(std::int64_t asked_s, std::optional<std::int64_t> rest_s) {
    if (!rest_s) plan_.quote.basis = "time limit asked for";
    const std::string asked = "time_limit = " + duration_text(asked_s);
    const std::int64_t needed_s = type_->startup_s + kMinute;
    if (asked_s < needed_s) {
      refuse("{} is shorter than the {} that a run needs (start-up {} + 1 min).", asked,
             duration_text(needed_s), duration_text(type_->startup_s));
      return;
    }
    if (plan_.auto_resume && asked_s > longest_s()) {
      plan_.time_limit_s = longest_s();
    } else if (check_longest(asked, asked_s, kAskForLess) &&
               check_partition(asked, asked_s, kAskForLess)) {
      plan_.time_limit_s = round_up_to_minute(asked_s);
    }
  }

  std::int64_t longest_s() const {
    return std::min({site_.limits.max_time_s.value_or(kLongestLimit_s), kLongestLimit_s,
                     partition_longest_s()}) / kMinute * kMinute;
  }

  std::int64_t partition_longest_s() const {
    const auto found = facts_.partition_max_s.find(plan_.partition);
    return found == facts_.partition_max_s.end() ? kLongestLimit_s : found->second;
  }

  // False, with a reason: Slurm would let a job of this limit wait for ever.
  bool check_partition(const std::string& what, std::int64_t seconds, std::string_view advice) {
    if (seconds <= partition_longest_s()) return true;
    refuse("{} exceeds the {} of partition \"{}\" (MaxTime in Slurm). {}", what,
           duration_text(partition_longest_s()), plan_.partition, advice);
    return false;
  }

  // False, with a reason: `seconds` exceed the site's longest time or any time.
  bool check_longest(const std::string& what, std::int64_t seconds, std::string_view advice) {
    const std::int64_t longest_s =
        std::min(site_.limits.max_time_s.value_or(kLongestLimit_s), kLongestLimit_s);
    if (seconds <= longest_s) return true;
    const std::string source =
        longest_s == kLongestLimit_s ? "" : fmt::format(" ({})", at(site_.limits.line));
    refuse("{} exceeds the limit of {} for a run{}. {}", what, duration_text(longest_s), source,
           advice);
    return false;
  }

  // In training images: those that it trains with, and those that it validates with.
  std::pair<double, double> work_of_epoch() {
    constexpr double kValidationWork = 0.4;  // Of a training image's: forward only.
    const contract::TrainArgs& args = request_.args;
    const auto train =
        static_cast<double>(contract::images_kept(args.fraction, data_.train_images));
    const auto val_images =
        static_cast<double>(contract::images_kept(args.fraction_val, data_.val_images));
    const double val = args.val ? val_images * kValidationWork : 0;
    plan_.epoch_tenths = std::llround((train + val) * 10);
    return {train, val};
  }

  // docs/formats/request.md, after start-up; nothing where there is nothing to count.
  std::optional<std::int64_t> estimate_rest_s() {
    constexpr double kReferenceSize = 640;
    if (data_.train_images < 1 || !(type_->images_per_s > 0)) return std::nullopt;
    const contract::TrainArgs& args = request_.args;
    const auto [train, val] = work_of_epoch();
    // A run whose epochs are done may still have its last evaluation before it.
    const double epochs = std::max(1, args.epochs - std::max(0, progress_.epochs_done));
    plan_.image_tenths = std::llround(epochs * (train + val) * 10);
    if (const auto rate = rate_of(args)) {
      band_permille_ = rate->band_permille;
      const double rest_s = epochs * (train + val) * rate->seconds_per_image;
      plan_.quote.basis = fmt::format(
          "measured: {:.3g} s an image in {} run{} of {} at {} px on {} x {}; {} x ({:.0f} + {:.1f}) "
          "images, +-{:.1f} %",
          rate->seconds_per_image, rate->runs, rate->runs == 1 ? "" : "s", args.model, args.imgsz,
          plan_.gpus, plan_.type, epochs, train, val, static_cast<double>(band_permille_) / 10);
      return bounded(rest_s);
    }
    const double size = args.imgsz / kReferenceSize;
    const double gpu_images_per_s = type_->images_per_s / (size * size * model_factor(args.model));
    const double rest_s = epochs * (train + val) / (gpu_images_per_s * std::max(1, plan_.gpus));
    plan_.quote.basis =
        fmt::format("prior: {:.3g} images/s a GPU for {} at {} px; {} x ({:.0f} + {:.1f}) images",
                    gpu_images_per_s, args.model, args.imgsz, epochs, train, val);
    return bounded(rest_s);
  }

  // Far beyond every limit is far enough, and keeps the sums that follow small.
  static std::int64_t bounded(double rest_s) {
    if (!(rest_s < static_cast<double>(kLongestLimit_s))) return kLongestLimit_s;
    return static_cast<std::int64_t>(std::ceil(rest_s));
  }

  std::optional<accounting::MeasuredRate> rate_of(const contract::TrainArgs& args) const {
    if (!rates_ || !is_known_model(args.model)) return std::nullopt;
    return rates_({args.model, args.imgsz, plan_.type, plan_.ranks});
  }

  void price() {
    const auto expected =
        usage_amount(plan_.gpus, plan_.quote.expected_s, plan_.quote.weight_milli);
    const auto hold = usage_amount(plan_.gpus, held_s_, plan_.quote.weight_milli);
    if (!expected || !hold) {
      refuse("{} x {} x weight {} is more than the books can hold.", gpus_text(plan_.gpus),
             duration_text(held_s_), accounting::format_weight(plan_.quote.weight_milli));
      return;
    }
    plan_.quote.expected = *expected;
    plan_.quote.hold = *hold;
  }

  static constexpr std::string_view kAskForLess =
      "Ask for less, or let it go on in further jobs: --auto-resume.";
  static constexpr std::string_view kAskForFewerHours =
      "Ask for fewer hours, or let it go on in further jobs: --auto-resume.";
  static constexpr std::string_view kAskForAnotherWay =
      "Take more GPUs, fewer epochs, or let it go on by itself: --auto-resume.";

  const TrainingRequest& request_;
  const Site& site_;
  const ClusterFacts& facts_;
  const DataFacts& data_;
  const Progress& progress_;
  accounting::UtcSeconds now_;
  const accounting::RateLookup& rates_;
  std::int64_t band_permille_ = accounting::kPriorBand_permille;
  const InstanceType* type_ = nullptr;
  std::int64_t held_s_ = 0;
  Plan plan_;
  Refusal refusal_;
};

}  // namespace

PlanOutcome make_plan(const TrainingRequest& request, const Site& site, const ClusterFacts& facts,
                      const DataFacts& data, const Progress& progress, const std::string& user,
                      accounting::UtcSeconds now, const accounting::RateLookup& rates) {
  PlanOutcome outcome = Refusal{};
  for (const TrainingRequest& each : by_gpus(request)) {
    outcome = Planner(each, site, facts, data, progress, now, rates).outcome(user);
    if (std::holds_alternative<Plan>(outcome)) break;
  }
  return outcome;
}

std::vector<TrainingRequest> by_gpus(const TrainingRequest& request) {
  constexpr int kNumbersMax = 1'024;
  const Resources& asked = request.resources;
  if (!asked.gpus || !asked.gpus_min) return {request};
  std::vector<TrainingRequest> requests;
  for (int gpus = *asked.gpus; gpus >= *asked.gpus_min; --gpus) {
    // Of a range that nobody's cluster fills the lowest numbers.
    if (gpus - *asked.gpus_min >= kNumbersMax) continue;
    requests.push_back(request);
    requests.back().resources.gpus = gpus;
    requests.back().resources.gpus_min.reset();
  }
  return requests;
}

bool is_known_model(const std::string& model) {
  return contract::published_gflops(model).has_value();
}

std::int64_t limit_that_fits_s(Amount available, int gpus, std::int64_t weight_milli,
                               std::int64_t margin_s) {
  const auto second = usage_amount(gpus, 1, weight_milli);
  if (gpus < 1 || !second || available.milli_gpu_s < 0) return 0;
  if (second->milli_gpu_s == 0) return kLongestLimit_s;
  const std::int64_t affordable_s = available.milli_gpu_s / second->milli_gpu_s;
  if (affordable_s < margin_s) return 0;
  return std::min((affordable_s - margin_s) / kMinute * kMinute, kLongestLimit_s);
}

void to_json(nlohmann::json& json, const Plan& plan) {
  json = {{"type", plan.type},
          {"partition", plan.partition},
          {"account", plan.account},
          {"qos", plan.qos},
          {"fund", plan.fund},
          {"name", plan.name},
          {"tres_per_node", plan.tres_per_node},
          {"nodes", plan.nodes},
          {"gpus", plan.gpus},
          {"gpus_per_node", plan.gpus_per_node},
          {"ranks", plan.ranks},
          {"ranks_per_node", plan.ranks_per_node},
          {"batch_per_rank", plan.batch_per_rank},
          {"cpus_per_rank", plan.cpus_per_rank},
          {"memory_per_node_mb", plan.memory_per_node_mb},
          {"time_limit_s", plan.time_limit_s},
          {"is_timed", plan.is_timed},
          {"image_tenths", plan.image_tenths},
          {"slurm", plan.slurm},
          {"quote",
           {{"weight_milli", plan.quote.weight_milli},
            {"expected_s", plan.quote.expected_s},
            {"expected_milli_gpu_s", plan.quote.expected.milli_gpu_s},
            {"hold_milli_gpu_s", plan.quote.hold.milli_gpu_s},
            {"low_s", plan.quote.low_s},
            {"high_s", plan.quote.high_s},
            {"basis", plan.quote.basis}}}};
  if (plan.epoch_tenths > 0) json["epoch_tenths"] = plan.epoch_tenths;
  if (plan.auto_resume) json["auto_resume"] = true;
  if (plan.job_limit_s > 0) json["job_limit_s"] = plan.job_limit_s;
  if (plan.job_shortest_s > 0) json["job_shortest_s"] = plan.job_shortest_s;
  if (!plan.tier.empty()) json["tier"] = plan.tier;
  if (plan.tier_max_s > 0) json["tier_max_s"] = plan.tier_max_s;
  if (plan.quote.price_minor > 0) {
    json["quote"]["price_minor"] = plan.quote.price_minor;
    json["quote"]["currency"] = plan.quote.currency;
  }
}

void from_json(const nlohmann::json& json, Plan& plan) {
  Plan result;
  json.at("type").get_to(result.type);
  json.at("partition").get_to(result.partition);
  json.at("account").get_to(result.account);
  json.at("qos").get_to(result.qos);
  json.at("fund").get_to(result.fund);
  json.at("name").get_to(result.name);
  json.at("tres_per_node").get_to(result.tres_per_node);
  json.at("nodes").get_to(result.nodes);
  json.at("gpus").get_to(result.gpus);
  json.at("gpus_per_node").get_to(result.gpus_per_node);
  json.at("ranks").get_to(result.ranks);
  json.at("ranks_per_node").get_to(result.ranks_per_node);
  json.at("batch_per_rank").get_to(result.batch_per_rank);
  json.at("cpus_per_rank").get_to(result.cpus_per_rank);
  json.at("memory_per_node_mb").get_to(result.memory_per_node_mb);
  json.at("time_limit_s").get_to(result.time_limit_s);
  json.at("is_timed").get_to(result.is_timed);
  json.at("slurm").get_to(result.slurm);
  result.auto_resume = json.value("auto_resume", false);
  result.job_limit_s = json.value("job_limit_s", std::int64_t{0});
  result.job_shortest_s = json.value("job_shortest_s", std::int64_t{0});
  result.tier = json.value("tier", "");
  result.tier_max_s = json.value("tier_max_s", std::int64_t{0});
  const nlohmann::json& quote = json.at("quote");
  quote.at("weight_milli").get_to(result.quote.weight_milli);
  quote.at("expected_s").get_to(result.quote.expected_s);
  quote.at("expected_milli_gpu_s").get_to(result.quote.expected.milli_gpu_s);
  quote.at("hold_milli_gpu_s").get_to(result.quote.hold.milli_gpu_s);
  quote.at("basis").get_to(result.quote.basis);
  // Plans of before runs were measured have none of these.
  result.image_tenths = json.value("image_tenths", std::int64_t{0});
  result.epoch_tenths = json.value("epoch_tenths", std::int64_t{0});
  result.quote.low_s = quote.value("low_s", std::int64_t{0});
  result.quote.high_s = quote.value("high_s", std::int64_t{0});
  result.quote.price_minor = quote.value("price_minor", std::int64_t{0});
  result.quote.currency = quote.value("currency", "");
  plan = std::move(result);
}

}  // namespace scheduler
