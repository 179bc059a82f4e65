// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/rank_setup.h"

#include <c10/core/impl/FakeGuardImpl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "tests/trainer/temp_folder.h"
#include "trainer/device.h"
#include "trainer/durable_file.h"
#include "trainer/id_exchange.h"

namespace trainer {
namespace {

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

// A port that was free a moment ago.
std::uint16_t free_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(descriptor, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(descriptor);
  return ntohs(address.sin_port);
}

// What each of `size` threads gets; rank 0 comes last.
template <typename Share>
std::vector<std::vector<std::byte>> on_ranks(int size, Share share) {
  std::vector<std::vector<std::byte>> results(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = size - 1; rank >= 0; --rank) {
    threads.emplace_back(
        [&results, &share, rank] { results[static_cast<std::size_t>(rank)] = share(rank); });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

TEST(RankChoice, TakesWhatIsDocumentedAndNamesWhatIsNot) {
  using Way = RankChoice::Way;
  EXPECT_EQ(parse_rank_choice("").way, Way::kAuto);
  EXPECT_EQ(parse_rank_choice("mpi").way, Way::kMpi);
  EXPECT_EQ(parse_rank_choice("nccl").way, Way::kNccl);
  EXPECT_EQ(parse_rank_choice("nccl+tcp://n1:29500").place, "n1:29500");
  EXPECT_EQ(parse_rank_choice("nccl+file:///shared/id").place, "/shared/id");
  for (const char* wrong : {"gloo", "nccl+tcp://n1", "nccl+tcp://n1:0", "nccl+file://"}) {
    EXPECT_THROW(static_cast<void>(parse_rank_choice(wrong)), std::invalid_argument) << wrong;
  }
}

TEST(RankObstacle, IsADeviceThatTwoRanksTakeOrThatOneLacks) {
  EXPECT_EQ(obstacle_of({"n1  0000:01:00.0", "n1  0000:02:00.0", "n2  0000:01:00.0"}), "");
  // One host has two cards, but each rank sees its own alone: nothing is shared.
  EXPECT_EQ(obstacle_of({"n1  0000:41:00.0", "n1  0000:61:00.0"}), "");
  EXPECT_EQ(obstacle_of({"n1  0000:01:00.0", "n2  0000:01:00.0", "n1  0000:01:00.0"}),
            "ranks 0 and 2 share a device, which needs different NCCL_HOSTID");
  EXPECT_EQ(obstacle_of({"n1 a 0000:01:00.0", "n1 b 0000:01:00.0"}), "");
  EXPECT_EQ(obstacle_of({"n1  0000:01:00.0", "", "n1  0000:01:00.0"}), "rank 1 has no device");
}

// Of CUDA torch knows here what a test puts in its place.
TEST(RankDevice, BecomesTheCurrentOne) {
  using Fake = c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>;
  auto& cuda = c10::impl::device_guard_impl_registry[static_cast<std::size_t>(c10::DeviceType::CUDA)];
  static const Fake kFake;
  const auto* before = cuda.exchange(&kFake);
  Fake::setDeviceIndex(0);
  make_current({c10::DeviceType::CUDA, 3});
  const auto taken = Fake::getDeviceIndex();
  make_current(c10::DeviceType::CPU);
  cuda.store(before);

  EXPECT_EQ(taken, 3);
  EXPECT_EQ(Fake::getDeviceIndex(), 3);
}

TEST(IdExchange, EveryRankGetsRankZerosBytesOverTcp) {
  constexpr int kRanks = 5;
  const Address address{"127.0.0.1", free_port()};
  const std::vector<std::byte> bytes = bytes_of(std::string("an\0id", 5));

  const auto results = on_ranks(kRanks, [&](int rank) {
    return share_over_tcp({.rank = rank, .size = kRanks, .key = "7.0.0"}, address,
                          rank == 0 ? bytes : std::vector<std::byte>());
  });

  for (const auto& each : results) EXPECT_EQ(each, bytes);
}

TEST(IdExchange, AStrangerGetsNothingAndTheMissingAreNamed) {
  const Address address{"127.0.0.1", free_port()};
  std::string message;
  std::thread rank0([&] {
    try {
      static_cast<void>(
          share_over_tcp({.rank = 0, .size = 3, .key = "7.0.0", .limit_s = 2}, address, {}));
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
  });
  // Of another job. It is not answered, and gives up too.
  EXPECT_THROW(static_cast<void>(share_over_tcp(
                   {.rank = 1, .size = 3, .key = "8.0.0", .limit_s = 1}, address, {})),
               std::runtime_error);
  rank0.join();

  EXPECT_NE(message.find("for 2 of 2 ranks: 1, 2"), std::string::npos) << message;
}

TEST(IdExchange, AFileOfAnotherAttemptIsNotTaken) {
  constexpr int kRanks = 3;
  TempFolder folder;
  const std::string path = folder.at("id");
  write_durably(path, "7.0.0\nold");

  const auto results = on_ranks(kRanks, [&](int rank) {
    return share_over_file({.rank = rank, .size = kRanks, .key = "7.0.1"}, path,
                           rank == 0 ? bytes_of("new\nid") : std::vector<std::byte>());
  });

  for (const auto& each : results) EXPECT_EQ(each, bytes_of("new\nid"));
  EXPECT_THROW(static_cast<void>(share_over_file(
                   {.rank = 1, .size = 2, .key = "7.0.2", .limit_s = 0.1}, path, {})),
               std::runtime_error);
}

}  // namespace
}  // namespace trainer
