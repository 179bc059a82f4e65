// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/contract/dataset.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <filesystem>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "image_bytes.h"
#include "temp_folder.h"

namespace {

using contract::DataFault;
using contract::DatasetReport;
using contract::ImageEntry;
using contract::load_dataset;

using Files = std::vector<std::pair<std::string, std::string>>;

const std::string kImage = png_header(32, 32);
const std::string kYaml =
    "train: images/train\n"
    "val: images/val\n"
    "names: [cat, dog, bird]\n";

// A sound data set of two images; a case changes or adds files.
Files sound_files() {
  return {{"data.yaml", kYaml},
          {"images/train/a.png", kImage},
          {"labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n"},
          {"images/val/b.png", kImage},
          {"labels/val/b.txt", "1 0.5 0.5 0.2 0.2\n"}};
}

void write_all(const TempFolder& folder, const Files& files) {
  for (const auto& [name, text] : files) folder.write(name, text);
}

std::string without(std::string text, const std::string& prefix) {
  for (std::size_t at = text.find(prefix); at != std::string::npos; at = text.find(prefix)) {
    text.replace(at, prefix.size(), "ROOT");
  }
  return text;
}

std::vector<std::string> texts(const DatasetReport& report, const TempFolder& folder) {
  std::vector<std::string> result;
  for (const DataFault& fault : report.faults) {
    result.push_back(without((fault.is_fatal ? "fatal: " : "") + fault.where + ": " + fault.message,
                             folder.at("").substr(0, folder.at("").size() - 1)));
  }
  return result;
}

std::vector<std::string> names_of(const std::vector<ImageEntry>& images) {
  std::vector<std::string> names;
  for (const ImageEntry& image : images) {
    names.push_back(std::filesystem::path(image.path).filename().string());
  }
  return names;
}

struct BadCase {
  std::string name;
  Files changes;
  std::vector<std::string> faults;

  friend void PrintTo(const BadCase& bad, std::ostream* out) { *out << bad.name; }
};

std::vector<BadCase> bad_yaml_cases() {
  return {
      {"no_yaml",
       {{"data.yaml", "train: [a\nval: }\n"}},
       {"fatal: data.yaml:2: is no YAML: end of sequence flow not found."}},
      {"empty_yaml",
       {{"data.yaml", ""}},
       {"fatal: data.yaml: no mapping of keys (path, train, val, names)."}},
      {"a_list",
       {{"data.yaml", "- a\n- b\n"}},
       {"fatal: data.yaml: no mapping of keys (path, train, val, names)."}},
      {"binary_yaml",
       {{"data.yaml", std::string("\x7f"
                                  "ELF\0\1\2\3",
                                  8)}},
       {"fatal: data.yaml:1: is no YAML: unknown escape character: \\x01."}},
      {"latin1_yaml",
       {{"data.yaml", "train: images/train\nval: images/val\nnames: [caf\xc3\xa9, \"Wei\xdf\"]\n"}},
       {"fatal: data.yaml:3: the byte \\xdf is not UTF-8. Save the file as UTF-8."}},
      {"nothing_given",
       {{"data.yaml", "author: me\n"}},
       {"fatal: data.yaml: train is missing. Name a folder of images or a list file.",
        "fatal: data.yaml: val is missing. Name a folder of images or a list file.",
        "fatal: data.yaml: names is missing. List the classes, as in names: [cat, dog]."}},
      {"empty_value",
       {{"data.yaml", "train:\nval: images/val\nnames: [a, b]\n"}},
       {"fatal: data.yaml: train is missing. Name a folder of images or a list file."}},
      {"nc_contradicts",
       {{"data.yaml", kYaml + "nc: 2\n"}},
       {"fatal: data.yaml:4: nc = 2, but names (line 3) lists 3 classes."}},
      {"nc_no_number",
       {{"data.yaml", kYaml + "nc: many\n"}},
       {"fatal: data.yaml:4: nc = many is not a whole number of 1..65536."}},
      {"nc_huge",
       {{"data.yaml", "train: images/train\nval: images/val\nnc: 1000000000\n"}},
       {"fatal: data.yaml:3: nc = 1000000000 is not a whole number of 1..65536."}},
      {"names_gap",
       {{"data.yaml", "train: images/train\nval: images/val\nnames:\n  0: a\n  2: b\n"}},
       {"fatal: data.yaml:5: names: class 2 stands where 1 is due; 2 classes are numbered 0..1."}},
      {"names_twice",
       {{"data.yaml", "train: images/train\nval: images/val\nnames:\n  0: a\n  0: b\n"}},
       {"fatal: data.yaml:5: names: class 0 is given twice."}},
      {"names_word",
       {{"data.yaml", "train: images/train\nval: images/val\nnames:\n  cat: 0\n"}},
       {"fatal: data.yaml:4: names: \"cat\" is not a class number."}},
      {"names_empty",
       {{"data.yaml", "train: images/train\nval: images/val\nnames: []\n"}},
       {"fatal: data.yaml:3: names is empty."}},
      {"names_scalar",
       {{"data.yaml", "train: images/train\nval: images/val\nnames: 3\n"}},
       {"fatal: data.yaml:3: names is neither a list nor a mapping from class to name."}},
      {"name_nested",
       {{"data.yaml", "train: images/train\nval: images/val\nnames: [a, [b]]\n"}},
       {"fatal: data.yaml:3: the name of class 1 is not a text."}},
      {"key_twice",
       {{"data.yaml", kYaml + "train: images/val\n"}},
       {"fatal: data.yaml:4: train is given twice (first on line 1)."}},
      {"entry_no_path",
       {{"data.yaml", "train: {a: b}\nval: [images/val, 3: 4]\nnames: [a, b]\n"}},
       {"fatal: data.yaml:1: train holds an entry that is no path.",
        "fatal: data.yaml:2: val holds an entry that is no path."}},
      {"root_missing",
       {{"data.yaml", "path: elsewhere\n" + kYaml}},
       {"fatal: data.yaml:1: path = elsewhere: there is no folder ROOT/elsewhere. A relative "
        "path starts at the folder of data.yaml."}},
      {"folder_missing",
       {{"data.yaml", "train: images/trian\nval: images/val\nnames: [a, b]\n"}},
       {"fatal: data.yaml:1: train = images/trian: there is no folder or list file "
        "ROOT/images/trian."}},
      {"both_missing",
       {{"data.yaml", "train: x\nval: y\nnames: [a]\n"}},
       {"fatal: data.yaml:1: train = x: there is no folder or list file ROOT/x.",
        "fatal: data.yaml:2: val = y: there is no folder or list file ROOT/y."}},
      {"test_missing_is_a_note",
       {{"data.yaml", kYaml + "test: images/test\n"}},
       {"data.yaml:4: test = images/test: there is no folder or list file ROOT/images/test."}},
      {"an_image_as_split",
       {{"data.yaml", "train: images/train/a.png\nval: images/val\nnames: [a, b]\n"}},
       {"fatal: data.yaml:1: train = images/train/a.png: give a folder or a list file, not the "
        "image "
        "ROOT/images/train/a.png."}},
      {"no_image",
       {{"data.yaml", "train: docs\nval: images/val\nnames: [a, b]\n"}, {"docs/a.md", "x"}},
       {"fatal: data.yaml:1: train: no image in docs. Images end in bmp, dng, jpg, jpeg, mpo, pfm, "
        "png, tif, tiff "
        "or "
        "webp."}},
      {"labels_elsewhere",
       {{"data.yaml", "train: pictures\nval: images/val\nnames: [a, b]\n"},
        {"pictures/c.png", kImage}},
       {"fatal: data.yaml:1: train: no label for any of 1 image. The labels of pictures/c.png are "
        "looked for in pictures/c.txt."}},
      {"val_among_train",
       {{"data.yaml", "train: images\nval: images/val\nnames: [a, b]\n"}},
       {"data.yaml:2: val: 1 of 1 image are train images too."}},
      {"folders_overlap",
       {{"data.yaml", "train: [images/train, images/train]\nval: images/val\nnames: [a, b]\n"}},
       {"data.yaml:1: train names 1 image more than once; each counts once."}},
      {"list_entries",
       {{"data.yaml", "train: lists/train.txt\nval: images/val\nnames: [a, b]\n"},
        {"lists/train.txt",
         "../images/train/a.png\n\n../images/train/none.png\r\n"
         "readme.md\n" +
             std::string(5000, 'x') + ".png\n"}},
       {"lists/train.txt:3: there is no image ROOT/images/train/none.png.",
        "lists/train.txt:4: \"readme.md\" is no name of an image file.",
        "lists/train.txt:5: \"" + std::string(80, 'x') + "...\" is no name of an image file."}},
  };
}

// Of labels/train/a.txt; with a second, sound training image, so that the set can be used.
BadCase bad_label(std::string name, std::string text, std::vector<std::string> faults) {
  for (std::string& fault : faults) fault = "labels/train/a.txt:" + fault;
  return {std::move(name),
          {{"labels/train/a.txt", std::move(text)},
           {"images/train/z.png", kImage},
           {"labels/train/z.txt", "2 0.5 0.5 0.1 0.1"}},
          std::move(faults)};
}

std::vector<BadCase> bad_label_cases() {
  const std::string range = " is not within 0..1. Coordinates are fractions of the image.";
  return {
      bad_label("class_too_large", "0 .5 .5 .1 .1\n7 .5 .5 .1 .1\n",
                {"2: class 7 is not below nc = 3."}),
      bad_label("class_negative", "-1 .5 .5 .1 .1\n", {"1: class -1 is below 0."}),
      bad_label("class_fraction", "0.5 .5 .5 .1 .1\n", {"1: class 0.5 is not a whole number."}),
      bad_label("class_nan", "nan .5 .5 .1 .1\n", {"1: class nan is not a whole number."}),
      bad_label("class_word", "cat .5 .5 .1 .1\n", {"1: class \"cat\" is not a number."}),
      bad_label("class_endless", "1e300 .5 .5 .1 .1\n", {"1: class 1e300 is not below nc = 3."}),
      bad_label("too_few", "0 .5 .5 .1\n", {"1: 4 columns instead of 5 (class xc yc w h)."}),
      bad_label("too_many", "0 .5 .5 .1 .1 .9\n", {"1: 6 columns instead of 5 (class xc yc w h)."}),
      bad_label("polygon_torn", "0 .5 .5 .1 .1 .9 .9 .3\n",
                {"1: 8 columns instead of 5 (class xc yc w h), or an odd number (class x1 y1 x2 y2 "
                 "x3 y3 ...)."}),
      bad_label("polygon_outside", "0 .5 .5 .1 1.2 .9 .9\n", {"1: y2 = 1.2" + range}),
      bad_label("pixels", "0 320 240 64 48\n", {"1: xc = 320" + range}),
      bad_label("negative", "0 .5 -.2 .1 .1\n", {"1: yc = -.2" + range}),
      bad_label("not_a_number", "0 .5 .5 nan .1\n", {"1: w = nan" + range}),
      bad_label("infinite", "0 .5 .5 .1 inf\n", {"1: h = inf" + range}),
      bad_label("beyond_double", "0 1e999 .5 .1 .1\n", {"1: xc \"1e999\" is not a number."}),
      bad_label("decimal_comma", "0 0,5 .5 .1 .1\n", {"1: xc \"0,5\" is not a number."}),
      bad_label("hexadecimal", "0 0x1p-1 .5 .1 .1\n", {"1: xc \"0x1p-1\" is not a number."}),
      bad_label("nul", std::string("0 .5\0 .5 .1 .1\n", 15),
                {"1: xc \".5\\x00\" is not a number."}),
      bad_label("terminal_control", "0 \x1b[31m .5 .1 .1\n",
                {"1: xc \"\\x1b[31m\" is not a number."}),
      bad_label("not_utf8", "0 \xff\xfe .5 .1 .1\n", {"1: xc \"\\xff\\xfe\" is not a number."}),
      bad_label("huge_row", "0 " + std::string(1 << 20, '9') + "x .5 .1 .1\n",
                {"1: xc \"" + std::string(40, '9') + "...\" is not a number."}),
      bad_label("many_faults", "a\nb\nc\nd\ne\n",
                {"1: 1 column instead of 5 (class xc yc w h).",
                 "2: 1 column instead of 5 (class xc yc w h).",
                 "3: 1 column instead of 5 (class xc yc w h).",
                 "4: the rows from here on were not checked."}),
  };
}

BadCase bad_image(std::string name, std::string bytes, std::string fault) {
  return {std::move(name),
          {{"images/train/y.png", std::move(bytes)}},
          {"images/train/y.png: " + std::move(fault)}};
}

std::vector<BadCase> bad_file_cases() {
  return {
      bad_image("image_empty", "", "is empty (0 bytes)."),
      bad_image("image_html", "<html>", "is no image: it begins with the bytes 3c 68 74 6d."),
      bad_image("image_tiny", png_header(9, 500),
                "is 9 x 500 pixels, below the smallest side of 10."),
      bad_image("image_bomb", png_header(60000, 60000),
                "is 60000 x 60000 pixels, more than the limit of 134217728."),
      {"label_of_no_image",
       {{"labels/train/lonely.txt", "0 .5 .5 .1 .1\n"}, {"labels/train/classes.txt", "cat"}},
       {"labels/train/lonely.txt: there is no image for it in images/train."}},
      {"images_of_foreign_formats",
       {{"images/train/y.GIF", "GIF89a"}, {"images/train/x.pgm", "P5"}},
       {"images/train: 2 files of image formats that are not read, the first is "
        "images/train/x.pgm. Convert them to JPEG or PNG."}},
      {"no_area",
       {{"labels/train/a.txt", "0 .5 .5 .1 .1\n1 .5 .5 0 .1\n"}},
       {"labels/train/a.txt:2: the box has no area; the row is left out."}},
      {"val_unlabelled",
       {{"labels/val/b.txt", "\n"}},
       {"data.yaml:2: val: no label for any of 1 image; the metrics will be 0."}},
      {"all_images_bad",
       {{"images/train/a.png", "x"}},
       {"images/train/a.png: is no image: it begins with the bytes 78.",
        "fatal: data.yaml:1: train: none of 1 image can be used."}},
      {"label_file_large",
       {{"labels/val/b.txt", std::string((8 << 20) + 1, ' ')},
        {"images/val/c.png", kImage},
        {"labels/val/c.txt", "0 .5 .5 .1 .1"}},
       {"labels/val/b.txt: 8388609 bytes, more than the limit of 8388608."}},
  };
}

class BadDataset : public testing::TestWithParam<BadCase> {};

TEST_P(BadDataset, IsNamedWithFileAndLine) {
  const TempFolder folder;
  write_all(folder, sound_files());
  write_all(folder, GetParam().changes);

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_EQ(texts(report, folder), GetParam().faults);
  EXPECT_EQ(report.faults_total, std::ssize(report.faults));
}

std::string case_name(const testing::TestParamInfo<BadCase>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Yaml, BadDataset, testing::ValuesIn(bad_yaml_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Label, BadDataset, testing::ValuesIn(bad_label_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(File, BadDataset, testing::ValuesIn(bad_file_cases()), case_name);

TEST(Dataset, TakesTheBoxAroundAPolygon) {
  const TempFolder folder;
  write_all(folder, sound_files());
  folder.write("labels/train/a.txt",
               "1 .2 .4 .6 .3 .5 .9 .3 1.005\n0 .5 .5 .2 .2\n1 .2 .3 .6 1 .4 .5\n");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  ASSERT_EQ(report.dataset.train.size(), 1U);
  const std::vector<contract::Label>& labels = report.dataset.train[0].labels;
  ASSERT_EQ(labels.size(), 2U) << "the third row has the same box as the first";
  EXPECT_EQ(labels[0].cls, 1);
  EXPECT_FLOAT_EQ(labels[0].xc, 0.4F);
  EXPECT_FLOAT_EQ(labels[0].yc, 0.65F);
  EXPECT_FLOAT_EQ(labels[0].w, 0.4F);
  EXPECT_FLOAT_EQ(labels[0].h, 0.7F);
}

TEST(Dataset, SkipsTheImageOfABadLabelFileAndKeepsTheRest) {
  const TempFolder folder;
  write_all(folder, sound_files());
  folder.write("images/train/c.png", kImage);
  folder.write("labels/train/c.txt", "3 .5 .5 .1 .1\n");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_FALSE(report.has_fatal());
  EXPECT_EQ(report.skipped_images, 1);
  EXPECT_EQ(names_of(report.dataset.train), std::vector<std::string>{"a.png"});
}

TEST(Dataset, ReadsFoldersListsAndAListOfBoth) {
  const TempFolder folder;
  write_all(folder, sound_files());
  folder.write("data.yaml",
               "path: .\ntrain: [images/train, extra.txt]\nvalidation: images/val\n"
               "names: {1: dog, 0: cat}\nnc: 2\n");
  folder.write("extra.txt",
               "\xef\xbb\xbf"
               "more/images/d.JPG\r\n./more/images/e.webp");
  folder.write("more/images/d.JPG", "\xff\xd8\xff\xe0 and so on");
  folder.write("more/images/e.webp", std::string("RIFF\0\0\0\0WEBPVP8 ", 16));
  folder.write("more/labels/d.txt",
               "\xef\xbb\xbf"
               "1 +0.25 5e-1 .5\t1.005\n1 .25 .5 .5 1.005\r\n\n");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_EQ(texts(report, folder), std::vector<std::string>{});
  EXPECT_EQ(report.dataset.names, (std::vector<std::string>{"cat", "dog"}));
  ASSERT_EQ(names_of(report.dataset.train), (std::vector<std::string>{"a.png", "d.JPG", "e.webp"}));
  ASSERT_EQ(report.dataset.train[1].labels.size(), 1U) << "a repeated row is one label";
  const contract::Label& label = report.dataset.train[1].labels[0];
  EXPECT_EQ(label.cls, 1);
  EXPECT_EQ(label.xc, 0.25F);
  EXPECT_EQ(label.h, 1.0F) << "what hangs over by a hundredth is cut";
  EXPECT_EQ(report.background_images, 1);
}

TEST(Dataset, NamesClassesByNumberWhereOnlyNcIsGiven) {
  const TempFolder folder;
  write_all(folder, sound_files());
  folder.write("data.yaml", "train: images/train\nval: images/val\nnc: 2\n");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_FALSE(report.has_fatal());
  EXPECT_EQ(report.dataset.names, (std::vector<std::string>{"class_0", "class_1"}));
}

TEST(Dataset, TakesTheLastImagesFolderOfAPath) {
  const TempFolder folder;
  folder.write("images/set/data.yaml", "train: train/images\nval: val/images\nnames: [a]\n");
  for (const std::string split : {"train", "val"}) {
    folder.write("images/set/" + split + "/images/a.png", kImage);
    folder.write("images/set/" + split + "/labels/a.txt", "0 .5 .5 .1 .1\n");
  }

  const DatasetReport report = load_dataset(folder.at("images/set/data.yaml"));

  EXPECT_EQ(texts(report, folder), std::vector<std::string>{});
  EXPECT_EQ(report.background_images, 0);
}

TEST(Dataset, ReadsAnExportWhoseSplitsPointOneFolderTooHigh) {
  const TempFolder folder;
  write_all(folder, sound_files());
  folder.write("data.yaml", "train: ../images/train\nval: ../images/val\nnames: [a, b]\n");

  EXPECT_FALSE(load_dataset(folder.at("data.yaml")).has_fatal());
}

TEST(Dataset, DoesNotFollowALoopOfLinks) {
  const TempFolder folder;
  write_all(folder, sound_files());
  std::filesystem::create_directory_symlink(folder.at("images"), folder.at("images/train/loop"));
  std::filesystem::create_directory_symlink(folder.at("images/train"),
                                            folder.at("images/train/self"));

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_EQ(report.dataset.train.size(), 2U) << "a.png, and b.png through the link to images";
}

TEST(Dataset, DoesNotWaitForAPipe) {
  const TempFolder folder;
  write_all(folder, sound_files());
  ASSERT_EQ(::mkfifo(folder.at("images/train/pipe.png").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo(folder.at("labels/val/b2.txt").c_str(), 0600), 0);
  folder.write("images/val/b2.png", kImage);

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_EQ(texts(report, folder),
            (std::vector<std::string>{"images/train/pipe.png: not a regular file.",
                                      "labels/val/b2.txt: not a regular file."}));
}

TEST(Dataset, NamesAFileThatMayNotBeRead) {
  const TempFolder folder;
  write_all(folder, sound_files());
  ASSERT_EQ(::chmod(folder.at("labels/val/b.txt").c_str(), 0), 0);
  ASSERT_EQ(::chmod(folder.at("").c_str(), 0755), 0);
  // Root may read everything: be nobody for the while.
  const bool is_root = ::geteuid() == 0;
  constexpr uid_t kNobody = 65534;
  ASSERT_TRUE(!is_root || ::seteuid(kNobody) == 0);

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  ASSERT_TRUE(!is_root || ::seteuid(0) == 0);

  ASSERT_FALSE(report.faults.empty());
  EXPECT_EQ(report.faults[0].where, "labels/val/b.txt");
}

TEST(Dataset, NamesAMissingFileWithItsWholePath) {
  const TempFolder folder;

  const DatasetReport report = load_dataset(folder.at("nowhere.yaml"));

  EXPECT_EQ(texts(report, folder),
            std::vector<std::string>{"fatal: ROOT/nowhere.yaml: No such file or directory."});
}

TEST(Dataset, CapsTheFaultsButNeverHidesAFatalOne) {
  const TempFolder folder;
  write_all(folder, sound_files());
  for (int i = 0; i < 1100; ++i) folder.write("labels/val/lonely" + std::to_string(i) + ".txt", "");
  folder.write("images/val/b.png", "x");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  EXPECT_EQ(report.faults.size(), 1000U);
  EXPECT_EQ(report.faults_total, 1102);
  EXPECT_TRUE(report.has_fatal());
}

TEST(Dataset, ReadsNumbersTheSameInEveryLocale) {
  const TempFolder folder;
  write_all(folder, sound_files());
  const char* const german = std::setlocale(LC_ALL, "de_DE.UTF-8");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  std::setlocale(LC_ALL, "C");
  EXPECT_FALSE(report.has_fatal()) << (german != nullptr ? german : "no German locale here");
  EXPECT_EQ(report.dataset.train.at(0).labels.at(0).xc, 0.5F);
}

TEST(Dataset, HasNamesThatAreNotUtf8) {
  const TempFolder folder;
  write_all(folder, sound_files());
  folder.write("images/train/caf\xe9.png", "x");

  const DatasetReport report = load_dataset(folder.at("data.yaml"));

  ASSERT_EQ(report.faults.size(), 1U);
  EXPECT_EQ(report.faults[0].where, "images/train/caf\\xe9.png");
}

// The worked example of docs/formats/dataset.md: its blocks ```text FILE are the files.
TEST(Dataset, ParsesTheExampleOfItsManualPage) {
  std::ifstream page(std::string(TRAINYARD_DOCS) + "/formats/dataset.md");
  ASSERT_TRUE(page);
  const TempFolder folder;
  int files = 0;
  std::string line, name, text;
  while (std::getline(page, line)) {
    if (line.starts_with("```") && !name.empty()) {
      folder.write(name, text);
      ++files;
      name.clear();
    } else if (const std::size_t at = line.find(" file=");
               line.starts_with("```") && at != line.npos) {
      name = line.substr(at + 6);
      text.clear();
    } else if (!name.empty()) {
      text += line + "\n";
    }
  }
  ASSERT_EQ(files, 3);
  for (const std::string image : {"train/yard_001", "train/yard_002", "val/yard_101"}) {
    folder.write("yard/images/" + image + ".jpg", "\xff\xd8\xff\xe0 and so on");
  }

  const DatasetReport report = load_dataset(folder.at("yard/data.yaml"));

  EXPECT_EQ(texts(report, folder), std::vector<std::string>{});
  EXPECT_EQ(report.dataset.names, (std::vector<std::string>{"locomotive", "wagon"}));
  ASSERT_EQ(report.dataset.train.size(), 2U);
  EXPECT_EQ(report.dataset.train[0].labels.size(), 2U);
  EXPECT_TRUE(report.dataset.train[1].labels.empty());
}

}  // namespace
