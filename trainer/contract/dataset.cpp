// SPDX-License-Identifier: Apache-2.0
#include "trainer/contract/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "trainer/contract/archive.h"
#include "trainer/contract/data_yaml.h"
#include "trainer/contract/disk.h"
#include "trainer/contract/image_header.h"
#include "trainer/contract/label_file.h"
#include "trainer/contract/line_fault.h"

namespace contract {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kFaultsMax = 1000;
constexpr std::size_t kListFileBytesMax = std::size_t{1} << 30;
constexpr std::size_t kPathBytesMax = 4096;

enum class Severity { kNote, kFatal };

std::string absolute_path(const std::string& path, const std::string& base) {
  const fs::path joined = fs::path(base) / path;
  std::string text = joined.lexically_normal().string();
  if (text.size() > 1 && text.ends_with('/')) text.pop_back();
  return text;
}

std::string folder_of(const std::string& path) {
  return fs::path(path).parent_path().string();
}

// images/train/a.jpg -> labels/train/a.txt: the last folder called images counts. Without one the
// label lies beside its image.
std::string with_labels_folder(std::string path) {
  constexpr std::string_view kImages = "/images/", kLabels = "/labels/";
  const std::size_t at = path.rfind(kImages);
  if (at != std::string::npos) path.replace(at, kImages.size(), kLabels);
  return path;
}

std::string label_path_of(const std::string& image) {
  std::string path = with_labels_folder(image);
  return path.substr(0, path.rfind('.')) + ".txt";
}

class Reader {
 public:
  explicit Reader(const std::string& path) {
    std::error_code error;
    const std::string here = fs::current_path(error).string();
    take_yaml_path(absolute_path(path, here));
  }

  DatasetReport read() {
    if (!find_yaml() || !read_yaml()) return std::move(report_);
    read_split("train", yaml_.train, Severity::kFatal, dataset().train);
    read_split("val", yaml_.val, Severity::kFatal, dataset().val);
    // A run needs no test images, and published data sets often name a folder that nobody has.
    read_split("test", yaml_.test, Severity::kNote, dataset().test);
    check_whole();
    return std::move(report_);
  }

 private:
  Dataset& dataset() { return report_.dataset; }

  void take_yaml_path(const std::string& path) {
    dataset().yaml_path = path;
    yaml_name_ = printable(fs::path(path).filename().string());
    root_ = folder_of(path);
  }

  // From a folder or an archive to the YAML file in it. False: it has been said what is wrong.
  bool find_yaml() {
    std::string folder = dataset().yaml_path;
    const std::string given = printable(folder, 300);
    if (has_archive_extension(folder) && !is_folder(folder)) {
      const Unpacked unpacked = unpack_archive(folder);
      if (unpacked.folder.empty()) {
        fault(given, printable(unpacked.problem, 500), Severity::kFatal);
        return false;
      }
      folder = unpacked.folder;
      is_from_archive_ = true;
    } else if (!is_folder(folder)) {
      return true;
    }
    const auto [path, problem] = yaml_in(folder);
    if (path.empty()) {
      fault(given, problem, Severity::kFatal);
      return false;
    }
    take_yaml_path(path);
    return true;
  }

  struct Found {
    std::string path, problem;
  };
  // The only one at the root or, if there is none, below; of several that of the folder's name.
  static Found yaml_in(const std::string& folder) {
    std::vector<std::string> all = list_files(folder, [](std::string_view path) {
                                     return path.ends_with(".yaml") || path.ends_with(".yml");
                                   }).files;
    std::vector<std::string> at_root;
    std::copy_if(all.begin(), all.end(), std::back_inserter(at_root),
                 [&](const std::string& path) { return folder_of(path) == folder; });
    const std::vector<std::string>& choice = at_root.empty() ? all : at_root;
    if (choice.empty()) {
      return {{}, "holds no .yaml file. A data set needs one (docs/formats/dataset.md)."};
    }
    if (choice.size() == 1) return {choice[0], {}};
    for (const std::string& path : choice) {
      const fs::path file(path);
      if (file.stem() == file.parent_path().filename()) return {path, {}};
    }
    return {{},
            fmt::format("holds {} .yaml files, {} and {} among them, and none has the name of "
                        "its folder. Name the one that is meant.",
                        choice.size(), printable(fs::path(choice[0]).filename().string()),
                        printable(fs::path(choice[1]).filename().string()))};
  }

  void fault(std::string where, std::string message, Severity severity = Severity::kNote) {
    ++report_.faults_total;
    const bool is_fatal = severity == Severity::kFatal;
    if (report_.faults.size() >= kFaultsMax) {
      if (!is_fatal || report_.has_fatal()) return;
      report_.faults.pop_back();  // A run must not start because of the cap.
    }
    report_.faults.push_back({std::move(where), std::move(message), is_fatal});
  }

  std::string in_yaml(int line) const {
    return line > 0 ? fmt::format("{}:{}", yaml_name_, line) : yaml_name_;
  }

  // As people know the file: below the root of the data set without the root.
  std::string shown(std::string_view path) const {
    if (path.size() > root_.size() && path.starts_with(root_) && path[root_.size()] == '/') {
      path.remove_prefix(root_.size() + 1);
    }
    return printable(path, 300);
  }

  bool read_yaml() {
    const FileBytes file = read_whole_file(dataset().yaml_path, kDataYamlBytesMax);
    if (file.problem) {
      fault(printable(dataset().yaml_path, 300), *file.problem + ".", Severity::kFatal);
      return false;
    }
    yaml_ = parse_data_yaml(file.bytes);
    for (const LineFault& yaml_fault : yaml_.faults) {
      fault(in_yaml(yaml_fault.line), yaml_fault.message, Severity::kFatal);
    }
    dataset().names = yaml_.names;
    // Who packed it had another disk.
    if (!yaml_.root.path.empty() && !is_from_archive_) {
      root_ = absolute_path(yaml_.root.path, root_);
      if (!is_folder(root_)) {
        fault(in_yaml(yaml_.root.line),
              fmt::format("path = {}: there is no folder {}. A relative path starts at the folder "
                          "of {}.",
                          printable(yaml_.root.path), printable(root_, 300), yaml_name_),
              Severity::kFatal);
      }
    }
    return !report_.has_fatal();
  }

  void read_split(std::string_view name, const std::vector<DataYaml::Entry>& entries,
                  Severity severity, std::vector<ImageEntry>& images) {
    if (entries.empty()) return;
    std::vector<std::string> paths;
    bool is_complete = true;  // Every entry was found; what is missing otherwise has been said.
    for (const DataYaml::Entry& entry : entries) {
      is_complete = collect(name, entry, severity, paths) && is_complete;
    }

    std::sort(paths.begin(), paths.end());
    const auto last = std::unique(paths.begin(), paths.end());
    const auto repeated = std::distance(last, paths.end());
    if (repeated > 0) {
      fault(in_yaml(entries[0].line), fmt::format("{} names {} more than once; each counts once.",
                                                  name, counted(repeated, "image")));
    }
    paths.erase(last, paths.end());

    for (const std::string& path : paths) read_image(path, images);
    if (!images.empty()) return;
    if (!paths.empty()) {
      fault(in_yaml(entries[0].line),
            fmt::format("{}: none of {} can be used.", name, counted(std::ssize(paths), "image")),
            severity);
    } else if (is_complete) {
      fault(
          in_yaml(entries[0].line),
          fmt::format(
              "{}: no image in {}. Images end in bmp, dng, jpg, jpeg, mpo, pfm, png, tif, tiff or webp.",
              name, shown(resolve(entries[0].path))),
          severity);
    }
  }

  // Against the root. "../train/images" of a file beside train/ is meant as "train/images": a
  // widespread export writes it so.
  std::string resolve(const std::string& path) const {
    const std::string direct = absolute_path(path, root_);
    if (!path.starts_with("../") || is_folder(direct) || is_regular_file(direct)) return direct;
    const std::string inside = absolute_path(path.substr(3), root_);
    return is_folder(inside) || is_regular_file(inside) ? inside : direct;
  }

  bool collect(std::string_view split, const DataYaml::Entry& entry, Severity severity,
               std::vector<std::string>& paths) {
    const std::string path = resolve(entry.path);
    const auto refuse = [&](std::string_view what) {
      fault(
          in_yaml(entry.line),
          fmt::format("{} = {}: {} {}.", split, printable(entry.path), what, printable(path, 300)),
          severity);
      return false;
    };
    if (is_folder(path)) {
      collect_folder(path, paths);
    } else if (!is_regular_file(path)) {
      return refuse("there is no folder or list file");
    } else if (has_image_extension(path)) {
      return refuse("give a folder or a list file, not the image");
    } else {
      collect_list(path, paths);
    }
    return true;
  }

  void collect_folder(const std::string& folder, std::vector<std::string>& paths) {
    std::int64_t foreign = 0;
    std::string first_foreign;
    FolderListing listing = list_files(folder, [&](std::string_view path) {
      if (has_foreign_image_extension(path)) {
        if (++foreign == 1 || path < first_foreign) first_foreign = path;
      }
      return has_image_extension(path);
    });
    report_problems(listing);
    if (foreign > 0) {
      fault(shown(folder),
            fmt::format("{} file{} of image formats that are not read, the first is {}. Convert "
                        "them to JPEG or PNG.",
                        foreign, foreign == 1 ? "" : "s", shown(first_foreign)));
    }
    note_orphan_labels(folder, listing.files);
    std::move(listing.files.begin(), listing.files.end(), std::back_inserter(paths));
  }

  void report_problems(const FolderListing& listing) {
    for (const auto& [path, message] : listing.problems) fault(shown(path), message + ".");
  }

  void note_orphan_labels(const std::string& folder, const std::vector<std::string>& images) {
    const std::string labels = with_labels_folder(folder + "/");
    if (labels == folder + "/" || !is_folder(labels)) return;
    const FolderListing listing =
        list_files(labels.substr(0, labels.size() - 1), [](std::string_view path) {
          return path.ends_with(".txt") &&
                 !path.ends_with("/classes.txt");  // Written by labelling tools.
        });
    report_problems(listing);
    std::unordered_set<std::string> expected;
    for (const std::string& image : images) expected.insert(label_path_of(image));
    for (const std::string& label : listing.files) {
      if (!expected.contains(label)) {
        fault(shown(label), fmt::format("there is no image for it in {}.", shown(folder)));
      }
    }
  }

  void collect_list(const std::string& path, std::vector<std::string>& paths) {
    const FileBytes file = read_whole_file(path, kListFileBytesMax);
    if (file.problem) return fault(shown(path), *file.problem + ".");
    const std::string folder = folder_of(path);
    std::string_view text = file.bytes;
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    for (int line = 1; !text.empty(); ++line) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      std::string_view name = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      while (!name.empty() && (name.back() == '\r' || name.back() == ' ')) name.remove_suffix(1);
      if (name.empty()) continue;
      const std::string where = fmt::format("{}:{}", shown(path), line);
      if (name.size() > kPathBytesMax || name.find('\0') != std::string_view::npos ||
          !has_image_extension(name)) {
        fault(where, fmt::format("\"{}\" is no name of an image file.", printable(name)));
      } else if (std::string image = absolute_path(std::string(name), folder);
                 !is_regular_file(image)) {
        fault(where, fmt::format("there is no image {}.", printable(image, 300)));
      } else {
        paths.push_back(std::move(image));
      }
    }
  }

  void read_image(const std::string& path, std::vector<ImageEntry>& images) {
    ImageEntry entry{path, {}};
    if (check_image(path) && read_labels(entry)) {
      if (entry.labels.empty()) ++report_.background_images;
      images.push_back(std::move(entry));
    } else {
      ++report_.skipped_images;
    }
  }

  bool check_image(const std::string& path) {
    const FileBytes start = read_file_start(path, kImageHeaderBytes);
    if (start.problem) {
      fault(shown(path), *start.problem + ".");
      return false;
    }
    const std::optional<std::string> header_fault = image_header_fault(start.bytes);
    if (header_fault) fault(shown(path), *header_fault);
    return !header_fault;
  }

  bool read_labels(ImageEntry& entry) {
    const std::string path = label_path_of(entry.path);
    const FileBytes file = read_whole_file(path, kLabelFileBytesMax);
    if (file.is_missing) return true;
    if (file.problem) {
      fault(shown(path), *file.problem + ".");
      return false;
    }
    LabelFile labels = parse_label_file(file.bytes, static_cast<int>(dataset().names.size()));
    for (const std::vector<LineFault>* list : {&labels.faults, &labels.notes}) {
      for (const LineFault& row : *list) {
        fault(fmt::format("{}:{}", shown(path), row.line), row.message);
      }
    }
    entry.labels = std::move(labels.labels);
    return labels.faults.empty();
  }

  void check_whole() {
    const auto has_labels = [](const ImageEntry& entry) { return !entry.labels.empty(); };
    const auto& [yaml_path, names, train, val, test] = report_.dataset;
    if (!train.empty() && std::none_of(train.begin(), train.end(), has_labels)) {
      fault(in_yaml(yaml_.train[0].line),
            fmt::format("train: no label for any of {}. The labels of {} are looked for in {}.",
                        counted(std::ssize(train), "image"), shown(train[0].path),
                        shown(label_path_of(train[0].path))),
            Severity::kFatal);
    }
    if (!val.empty() && std::none_of(val.begin(), val.end(), has_labels)) {
      fault(in_yaml(yaml_.val[0].line),
            fmt::format("val: no label for any of {}; the metrics will be 0.",
                        counted(std::ssize(val), "image")));
    }
    std::set<std::string_view> trained;
    for (const ImageEntry& entry : train) trained.insert(entry.path);
    const auto shared = std::count_if(val.begin(), val.end(), [&](const ImageEntry& entry) {
      return trained.contains(entry.path);
    });
    if (shared > 0) {
      fault(in_yaml(yaml_.val[0].line), fmt::format("val: {} of {} are train images too.", shared,
                                                    counted(std::ssize(val), "image")));
    }
  }

  DatasetReport report_;
  DataYaml yaml_;
  std::string yaml_name_;
  std::string root_;
  bool is_from_archive_ = false;
};

}  // namespace

bool DatasetReport::has_fatal() const {
  return std::any_of(faults.begin(), faults.end(),
                     [](const DataFault& fault) { return fault.is_fatal; });
}

DatasetReport load_dataset(const std::string& path) {
  return Reader(path).read();
}

}  // namespace contract
