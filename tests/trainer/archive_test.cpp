// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/contract/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "image_bytes.h"
#include "temp_folder.h"
#include "trainer/contract/dataset.h"

namespace {

namespace fs = std::filesystem;
using contract::unpack_archive;

struct Item {
  std::string name, text;
  unsigned type = AE_IFREG;
};

const std::string kYaml =
    "path: /home/of/another\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n";

std::vector<Item> sound_items(const std::string& root = "") {
  return {{root + "set.yaml", kYaml},
          {root + "images/train/a.png", png_header(32, 32)},
          {root + "labels/train/a.txt", "0 .5 .5 .2 .2\n"},
          {root + "images/val/b.png", png_header(32, 32)}};
}

enum class Lock { kNone, kPassword };

void pack(const std::string& path, const std::vector<Item>& items, Lock lock = Lock::kNone) {
  archive* writer = archive_write_new();
  if (path.ends_with(".zip")) {
    archive_write_set_format_zip(writer);
    if (lock == Lock::kPassword) {
      ASSERT_EQ(archive_write_set_options(writer, "zip:encryption=traditional"), ARCHIVE_OK);
      archive_write_set_passphrase(writer, "secret");
    }
  } else {
    archive_write_set_format_pax_restricted(writer);
    archive_write_add_filter_gzip(writer);
  }
  ASSERT_EQ(archive_write_open_filename(writer, path.c_str()), ARCHIVE_OK);
  for (const Item& item : items) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, item.name.c_str());
    archive_entry_set_filetype(entry, item.type);
    archive_entry_set_perm(entry, 0644);
    if (item.type == AE_IFLNK) {
      archive_entry_set_symlink(entry, item.text.c_str());
    } else {
      archive_entry_set_size(entry, static_cast<la_int64_t>(item.text.size()));
    }
    ASSERT_EQ(archive_write_header(writer, entry), ARCHIVE_OK) << archive_error_string(writer);
    if (item.type == AE_IFREG) archive_write_data(writer, item.text.data(), item.text.size());
    archive_entry_free(entry);
  }
  ASSERT_EQ(archive_write_free(writer), ARCHIVE_OK);
}

std::vector<std::string> fatal_faults(const contract::DatasetReport& report) {
  std::vector<std::string> texts;
  for (const contract::DataFault& fault : report.faults) {
    if (fault.is_fatal) texts.push_back(fault.message);
  }
  return texts;
}

TEST(Archive, IsADataSetWhereverItsFilesLieInIt) {
  for (const char* name : {"set.zip", "set.tgz", "set.tar.gz"}) {
    for (const char* root : {"", "set/", "outer/set/"}) {
      SCOPED_TRACE(std::string(name) + " " + root);
      const TempFolder folder;
      std::vector<Item> items = sound_items(root);
      items.push_back({"__MACOSX/._a.png", "rubbish"});
      pack(folder.at(name), items);

      const contract::DatasetReport report = contract::load_dataset(folder.at(name));

      EXPECT_EQ(fatal_faults(report), std::vector<std::string>{});
      ASSERT_EQ(report.dataset.train.size(), 1U);
      EXPECT_EQ(report.dataset.train[0].labels.size(), 1U);
      EXPECT_TRUE(report.dataset.train[0].path.starts_with(folder.at(name) + ".unpacked/"));
      EXPECT_FALSE(fs::exists(folder.at(std::string(name) + ".unpacked/__MACOSX")));
    }
  }
}

// As Python's zipfile writes "b\u00fccher/\u00e4.txt" with the text "x".
TEST(Archive, NamesBeyondAsciiNeedNoLocale) {
  const std::string hex =
      "504b0304140000080000f370785d8316dc8c01000000010000000e00000062c3bc636865722fc3a42e74"
      "787478504b01021403140000080000f370785d8316dc8c01000000010000000e00000000000000000000"
      "0080010000000062c3bc636865722fc3a42e747874504b050600000000010001003c0000002d00000000"
      "00";
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  const TempFolder folder;

  const contract::Unpacked result = unpack_archive(folder.write("set.zip", bytes));

  EXPECT_EQ(result.problem, "");
  EXPECT_TRUE(fs::exists(result.folder + "/b\xc3\xbc"
                                         "cher/\xc3\xa4.txt"));
}

TEST(Archive, SaysThatItGetsOn) {
  const TempFolder folder;
  constexpr std::size_t kBlock = std::size_t{1} << 16;
  pack(folder.at("set.zip"), {{"a.txt", "a"}, {"b.txt", std::string(3 * kBlock, 'b')}});
  int signs = 0;

  ASSERT_EQ(unpack_archive(folder.at("set.zip"), [&signs] { ++signs; }).problem, "");
  EXPECT_GE(signs, 2 + 1 + 3);

  signs = 0;
  ASSERT_EQ(unpack_archive(folder.at("set.zip"), [&signs] { ++signs; }).problem, "");
  EXPECT_EQ(signs, 0);  // It is there already.
}

TEST(Archive, IsUnpackedOnceUntilItChanges) {
  const TempFolder folder;
  const std::string path = folder.at("set.zip");
  pack(path, sound_items());
  const std::string first = unpack_archive(path).folder;
  folder.write("set.zip.unpacked/mark", "still here");

  EXPECT_EQ(unpack_archive(path).folder, first);
  EXPECT_TRUE(fs::exists(folder.at("set.zip.unpacked/mark")));

  pack(path, {{"other.txt", "new"}});
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(2));
  EXPECT_EQ(unpack_archive(path).folder, first);
  EXPECT_FALSE(fs::exists(folder.at("set.zip.unpacked/mark")));
  EXPECT_TRUE(fs::exists(folder.at("set.zip.unpacked/other.txt")));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.at("")), fs::directory_iterator()), 2);
}

TEST(Archive, ManyMayUnpackItAtOnce) {
  const TempFolder folder;
  const std::string path = folder.at("set.zip");
  pack(path, sound_items());
  std::vector<contract::Unpacked> results(8);
  std::vector<std::thread> threads;
  for (contract::Unpacked& result : results) {
    threads.emplace_back([&] { result = unpack_archive(path); });
  }
  for (std::thread& thread : threads) thread.join();

  for (const contract::Unpacked& result : results) {
    EXPECT_EQ(result.folder, path + ".unpacked") << result.problem;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.at("")), fs::directory_iterator()), 2);
}

struct BadArchive {
  const char* name;
  std::vector<Item> items;
  const char* problem;
};

TEST(Archive, IsRefusedWholeWhereAnEntryIsNotToBeTrusted) {
  const std::vector<BadArchive> cases = {
      {"up.zip", {{"../evil", "x"}}, "../evil: the name leaves the archive."},
      {"inside.zip", {{"a/../../evil", "x"}}, "a/../../evil: the name leaves the archive."},
      {"root.tgz", {{"/evil", "x"}}, "/evil: the name is not a path below the archive."},
      {"back.tgz", {{"..\\evil", "x"}}, "..\\evil: the name is not a path below the archive."},
      {"link.tgz",
       {{"a", "/etc", AE_IFLNK}, {"a/passwd", "x"}},
       "a: is a link or a device. Pack files only."},
      {"link.zip", {{"a", "/etc", AE_IFLNK}}, "a: is a link or a device. Pack files only."},
      {"device.tgz", {{"a", "", AE_IFIFO}}, "a: is a link or a device. Pack files only."},
      {"twice.zip", {{"a", "1"}, {"a", "2"}}, "a: stands in it twice."},
      {"empty.zip", {}, "no file in it."},
  };
  for (const BadArchive& each : cases) {
    SCOPED_TRACE(each.name);
    const TempFolder folder;
    std::vector<Item> items = {{"good.txt", "good"}};
    if (each.items.empty()) items.clear();
    items.insert(items.end(), each.items.begin(), each.items.end());
    pack(folder.at(each.name), items);

    const contract::Unpacked result = unpack_archive(folder.at(each.name));

    EXPECT_EQ(result.folder, "");
    EXPECT_EQ(result.problem, each.problem);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.at("")), fs::directory_iterator()), 1)
        << "nothing is left behind";
  }
}

TEST(Archive, EncryptedTornAndForeignFilesAreNamed) {
  const TempFolder folder;
  pack(folder.at("locked.zip"), sound_items(), Lock::kPassword);
  pack(folder.at("whole.zip"), {{"a.txt", std::string(100'000, 'x') + "y"}});
  folder.write("text.zip", "no archive at all");
  std::ifstream file(folder.at("whole.zip"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  folder.write("torn.zip", whole.substr(0, whole.size() / 2));

  EXPECT_EQ(unpack_archive(folder.at("locked.zip")).problem,
            "set.yaml: is encrypted. Pack it without a password.");
  for (const char* name : {"torn.zip", "text.zip", "none.zip"}) {
    SCOPED_TRACE(name);
    const contract::Unpacked result = unpack_archive(folder.at(name));
    EXPECT_EQ(result.folder, "");
    EXPECT_NE(result.problem, "");
  }
  EXPECT_EQ(unpack_archive(folder.at("none.zip")).problem, "No such file or directory.");
}

TEST(Archive, AFolderThatIsInTheWayIsLeftAlone) {
  const TempFolder folder;
  pack(folder.at("set.zip"), sound_items());
  folder.write("set.zip.unpacked/mine", "precious");

  EXPECT_NE(unpack_archive(folder.at("set.zip")).problem.find("is in the way"), std::string::npos);
  EXPECT_TRUE(fs::exists(folder.at("set.zip.unpacked/mine")));
}

TEST(Archive, AFolderNamesItsYamlAsAnArchiveDoes) {
  const TempFolder folder;
  for (const Item& item : sound_items("cells/")) folder.write(item.name, item.text);
  folder.write("cells/set.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n");

  EXPECT_EQ(contract::load_dataset(folder.at("cells")).dataset.yaml_path,
            folder.at("cells/set.yaml"));

  folder.write("cells/more.yaml", "names: [a]\n");
  EXPECT_EQ(
      fatal_faults(contract::load_dataset(folder.at("cells"))),
      std::vector<std::string>{"holds 2 .yaml files, more.yaml and set.yaml among them, and "
                               "none has the name of its folder. Name the one that is meant."});

  fs::rename(folder.at("cells/set.yaml"), folder.at("cells/cells.yaml"));
  EXPECT_EQ(contract::load_dataset(folder.at("cells")).dataset.yaml_path,
            folder.at("cells/cells.yaml"));
}

}  // namespace
