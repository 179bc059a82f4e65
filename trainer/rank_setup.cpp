// SPDX-License-Identifier: Apache-2.0
#include "trainer/rank_setup.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "trainer/contract/exit_code.h"
#include "trainer/id_exchange.h"
#include "trainer/nccl_communicator.h"
#include "trainer/start_watch.h"

namespace trainer {

namespace {

using Way = RankChoice::Way;

std::string environment(const char* name, const char* otherwise = "") {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : text;
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return gethostname(name.data(), HOST_NAME_MAX) == 0 ? name.data() : "localhost";
}

std::string host_of_slurm_or_kernel() {
  return environment("SLURMD_NODENAME", host_name().c_str());
}

// Host and device of a rank, as NCCL tells them apart. Empty: it has none.
std::string own_device(const Communicator& ranks) {
  try {
    const NcclDevice device = describe_nccl_device(ranks.local_rank());
    if (device.bus.empty()) return {};
    return fmt::format("{} {} {}", ranks.host(), environment("NCCL_HOSTID"), device.bus);
  } catch (const std::exception& error) {
    // The others wait for what this rank has to say.
    fmt::print(stderr, "rank {} ({}): {}\n", ranks.rank(), ranks.host(), error.what());
    return {};
  }
}

std::vector<std::string> devices_of(Communicator& ranks) {
  const std::string own = own_device(ranks);
  std::vector<std::string> devices;
  for (const auto& bytes : ranks.all_gather(std::as_bytes(std::span(own)))) {
    devices.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return devices;
}

// What one rank alone may fail in while the others wait for it: they are ended. MPI's own end would
// wait for them.
std::unique_ptr<Communicator> nccl_beside(std::unique_ptr<Communicator> mpi,
                                          const WatchdogOptions& watchdog) {
  try {
    std::vector<std::byte> id = mpi->rank() == 0 ? make_nccl_id() : std::vector<std::byte>();
    id = mpi->all_gather(id).front();
    const NcclRank own{mpi->rank(), mpi->size(), mpi->local_rank(), mpi->host()};
    return make_nccl_communicator(own, id, std::move(mpi));
  } catch (const std::exception& error) {
    constexpr int kCode = static_cast<int>(contract::ExitCode::kEnvironment);
    if (watchdog.last_words) watchdog.last_words({.message = error.what(), .exit_code = kCode});
    mpi->abort(kCode);
    throw;
  }
}

Ranks over_mpi(Way way, std::unique_ptr<Communicator> mpi, const WatchdogOptions& watchdog) {
  if (way == Way::kMpi) return {std::move(mpi), "communicator: MPI", {}};
  const std::string obstacle = obstacle_of(devices_of(*mpi));
  std::string why = describe_nccl();  // That there is no device here is in it.
  if (!obstacle.empty() && nccl_device_count() > 0) why += "; " + obstacle;
  if (!obstacle.empty()) {
    if (way == Way::kNccl) {
      throw std::runtime_error(fmt::format("TRAINYARD_COMMUNICATOR=nccl: {}.", why));
    }
    return {std::move(mpi), "communicator: MPI; " + why, {}};
  }
  // One rank has nobody to talk to.
  if (way == Way::kAuto && mpi->size() == 1)
    return {std::move(mpi), "communicator: MPI, one rank", {}};
  return {nccl_beside(std::move(mpi), watchdog),
          fmt::format("communicator: {}, started by MPI", describe_nccl()),
          {}};
}

Ranks without_mpi(const RankChoice& choice, const Launch& launch) {
  if (nccl_device_count() == 0) {
    throw std::runtime_error(
        fmt::format("TRAINYARD_COMMUNICATOR asks for NCCL: {}.", describe_nccl()));
  }
  const Exchange exchange{
      .rank = launch.rank,
      .size = launch.size,
      .key = fmt::format("trainyard-nccl {}.{}.{}", environment("SLURM_JOB_ID", "0"),
                         environment("SLURM_STEP_ID", "0"), launch.attempt),
      .limit_s = launch.watchdog_s > 0 ? launch.watchdog_s : INT_MAX};
  std::vector<std::byte> id = launch.rank == 0 ? make_nccl_id() : std::vector<std::byte>();
  id = choice.way == Way::kNcclOverTcp ? share_over_tcp(exchange, parse_address(choice.place), id)
                                       : share_over_file(exchange, choice.place, id);
  return {make_nccl_communicator({launch.rank, launch.size, launch.local_rank, host_of_slurm_or_kernel()}, id),
          fmt::format("communicator: {}, started over {}", describe_nccl(), choice.place),
          {}};
}

}  // namespace

std::string obstacle_of(const std::vector<std::string>& devices) {
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    if (devices[rank].empty()) return fmt::format("rank {} has no device", rank);
  }
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    const auto end = devices.begin() + static_cast<std::ptrdiff_t>(rank);
    const auto other = std::find(devices.begin(), end, devices[rank]);
    if (other == end) continue;
    return fmt::format("ranks {} and {} share a device, which needs different NCCL_HOSTID",
                       other - devices.begin(), rank);
  }
  return {};
}

RankChoice parse_rank_choice(const std::string& text) {
  constexpr std::string_view kTcp = "nccl+tcp://", kFile = "nccl+file://";
  if (text.empty() || text == "auto") return {Way::kAuto, {}};
  if (text == "mpi") return {Way::kMpi, {}};
  if (text == "nccl") return {Way::kNccl, {}};
  if (text.starts_with(kTcp)) {
    const std::string place = text.substr(kTcp.size());
    static_cast<void>(parse_address(place));
    return {Way::kNcclOverTcp, place};
  }
  if (text.starts_with(kFile) && text.size() > kFile.size()) {
    return {Way::kNcclOverFile, text.substr(kFile.size())};
  }
  throw std::invalid_argument(
      fmt::format("TRAINYARD_COMMUNICATOR = \"{}\" is not known. Known: auto, mpi, nccl, "
                  "nccl+tcp://HOST:PORT, nccl+file://PATH.",
                  text));
}

Ranks make_ranks(const Launch& launch, const WatchdogOptions& watchdog, int* argc, char*** argv) {
  const RankChoice choice = parse_rank_choice(environment("TRAINYARD_COMMUNICATOR"));
  if (!launch.has_ranks) {
    if (choice.way == Way::kNccl) throw std::invalid_argument("One process needs no NCCL.");
    return {make_local_communicator(), "communicator: one process", {}};
  }
  // MPI writes into the closed connection of a rank that died: the watch is to say so, not a signal.
  std::signal(SIGPIPE, SIG_IGN);
  const StartWatch start({.limit_s = launch.watchdog_s,
                          .exit_code = watchdog.exit_code,
                          .last_words = watchdog.last_words});
  const bool has_mpi = choice.way != Way::kNcclOverTcp && choice.way != Way::kNcclOverFile;
  Ranks ranks = has_mpi ? over_mpi(choice.way, make_mpi_communicator(argc, argv), watchdog)
                        : without_mpi(choice, launch);
  ranks.communicator = watched(std::move(ranks.communicator), watchdog, &ranks.warning);
  return ranks;
}

}  // namespace trainer
