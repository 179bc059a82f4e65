// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs under mpirun with 1, 2 and 4 ranks. Sums are of small integers, so that equality is exact.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <algorithm>
#include <span>
#include <string>

#include "tests/trainer/ranks.h"
#include "tests/trainer/ranks_gradients.h"
#include "tests/trainer/reference_numbers.h"
#include "trainer/communicator.h"
#include "trainer/gradient_reducer.h"

namespace trainer {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string to_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Communicator, SumsAndMaximaAreExact) {
  const int ranks = world->size(), rank = world->rank();
  std::vector<float> floats = {static_cast<float>(rank), 1, -static_cast<float>(rank)};
  std::vector<double> doubles(100'000, rank + 1);
  std::vector<std::int64_t> integers = {rank, -rank, std::int64_t{1} << 40};

  world->all_reduce_sum(std::span<float>(floats));
  world->all_reduce_sum(std::span<double>(doubles));
  world->all_reduce_max(std::span<std::int64_t>(integers));

  const int sum = ranks * (ranks - 1) / 2;
  EXPECT_EQ(floats, (std::vector<float>{static_cast<float>(sum), static_cast<float>(ranks),
                                        -static_cast<float>(sum)}));
  EXPECT_EQ(doubles, std::vector<double>(100'000, sum + ranks));
  EXPECT_EQ(integers, (std::vector<std::int64_t>{ranks - 1, 0, std::int64_t{1} << 40}));
}

TEST(Communicator, GathersPartsOfDifferentLengths) {
  const std::string mine(static_cast<std::size_t>(world->rank()) * 3, 'a');

  const auto all = world->all_gather(bytes_of(mine));

  ASSERT_EQ(all.size(), static_cast<std::size_t>(world->size()));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    EXPECT_EQ(to_text(all[rank]), std::string(rank * 3, 'a'));
  }
}

TEST(Communicator, BroadcastsFromAnyRank) {
  for (int root = 0; root < world->size(); ++root) {
    std::vector<std::byte> bytes(1000, static_cast<std::byte>(world->rank()));
    world->broadcast(bytes, root);
    EXPECT_EQ(bytes, std::vector<std::byte>(1000, static_cast<std::byte>(root)));
  }
}

TEST(Replicas, ADifferenceIsAnErrorThatNamesTheRank) {
  const torch::Tensor same = torch::ones({5});
  torch::Tensor different = torch::ones({5});
  EXPECT_NO_THROW(check_replicas(*world, {same}));
  if (world->size() == 1) return;
  if (world->rank() == 1) different[3] = 2;

  try {
    check_replicas(*world, {different});
    ADD_FAILURE() << "not seen";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("rank 1: "), std::string::npos) << error.what();
  }
}

TEST(Replicas, OfAnotherSizeAreRefusedBeforeAnythingIsWritten) {
  torch::Tensor weights = torch::full({world->rank() == 1 ? 7 : 5}, world->rank(), torch::kFloat);
  const torch::Tensor before = weights.clone();
  if (world->size() == 1) return;

  try {
    broadcast_tensors(*world, {weights});
    ADD_FAILURE() << "not seen";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("from 20 to 28 bytes"), std::string::npos)
        << error.what();
  }
  EXPECT_TRUE(torch::equal(weights, before));
}

// Batch norm in evaluation mode: its statistics are those of a rank, not of the global batch.
TEST(Gradients, OfAllRanksTogetherAreThoseOfOneProcess) {
  SharedBatch batch;
  batch.model.eval();
  const std::vector<torch::Tensor> expected = batch.whole();

  const std::vector<torch::Tensor> gradients = batch.shared_by(*world);

  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, reference::difference(gradients[i], expected[i]));
  }
  EXPECT_LT(largest, 2e-4);
}

}  // namespace
}  // namespace trainer
