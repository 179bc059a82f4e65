// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <string>
#include <vector>

#include "image_bytes.h"
#include "reference.h"
#include "temp_folder.h"

namespace {

using trainer::apply_letterbox;
using trainer::Letterbox;
using trainer::LetterboxOptions;
using trainer::plan_letterbox;
using trainer::read_image;

std::string encoded(const cv::Mat& image, const std::string& extension) {
  std::vector<unsigned char> bytes;
  cv::imencode(extension, image, bytes);
  return {bytes.begin(), bytes.end()};
}

TEST(Letterbox, AgreesWithTheReferenceInEveryCase) {
  SKIP_WITHOUT_REFERENCE("letterbox.json");
  const nlohmann::json cases = reference::read_json(reference::vectors("letterbox.json"));
  ASSERT_EQ(cases.size(), 132U);
  for (const nlohmann::json& one : cases) {
    SCOPED_TRACE(one.dump().substr(0, 120));
    const int h = one["h"], w = one["w"];
    const nlohmann::json& target = one["new"];
    const cv::Size size = target.is_array() ? cv::Size(target[1], target[0])
                                            : cv::Size(target.get<int>(), target.get<int>());
    const LetterboxOptions options{.scale_up = one["kw"].value("scaleup", true),
                                   .center = one["kw"].value("center", true),
                                   .pad_to_stride_only = one["kw"].value("auto", false)};

    const Letterbox plan = plan_letterbox({w, h}, size, options);

    EXPECT_EQ(plan.padded, cv::Size(one["out_hw"][1], one["out_hw"][0]));
    EXPECT_EQ(plan.left, one["pad_left_top"][0].get<int>());
    EXPECT_EQ(plan.top, one["pad_left_top"][1].get<int>());
    const double boxes[2][4] = {{.5, .5, .4, .3}, {.1, .2, .1, .2}};
    for (std::size_t i = 0; i < 2; ++i) {
      const auto& [x, y, bw, bh] = boxes[i];
      const double corners[4] = {(x - bw / 2) * w, (y - bh / 2) * h, (x + bw / 2) * w,
                                 (y + bh / 2) * h};
      for (std::size_t k = 0; k < 4; ++k) {
        const double mapped = corners[k] * plan.gain + (k % 2 == 0 ? plan.left : plan.top);
        EXPECT_WITHIN("letterbox, boxes in pixels",
                      std::abs(mapped - one["boxes_xyxy"][i][k].get<double>()), 1e-4);
      }
    }
  }
}

TEST(Letterbox, GivesThePixelsOfTheReference) {
  SKIP_WITHOUT_REFERENCE("letterbox_pixels.npz");
  auto arrays = reference::read_npz(reference::vectors("letterbox_pixels.npz"));
  std::string source = arrays.at("img").bytes;
  const cv::Mat image(37, 53, CV_8UC3, source.data());
  struct Case {
    std::string name;
    int side;
    LetterboxOptions options;
  };
  const std::vector<Case> cases = {{"up64", 64, {}},
                                   {"down32", 32, {}},
                                   {"auto96", 96, {.pad_to_stride_only = true}},
                                   {"noscaleup", 128, {.scale_up = false}}};
  for (const auto& [name, side, options] : cases) {
    SCOPED_TRACE(name);
    const cv::Mat result =
        apply_letterbox(image, plan_letterbox(image.size(), {side, side}, options));

    const reference::Array& expected = arrays.at(name);
    ASSERT_EQ(result.rows, expected.shape[0]);
    ASSERT_EQ(result.cols, expected.shape[1]);
    ASSERT_TRUE(result.isContinuous());
    EXPECT_TRUE(std::equal(result.datastart, result.dataend,
                           reinterpret_cast<const unsigned char*>(expected.bytes.data())));
  }
}

TEST(Letterbox, TakesAnImageThatHasTheRightSizeAsItIs) {
  const cv::Mat image(48, 64, CV_8UC3, cv::Scalar(1, 2, 3));
  const Letterbox plan = plan_letterbox({640, 480}, {64, 64});

  const cv::Mat result = apply_letterbox(image, plan);

  EXPECT_EQ(result.at<cv::Vec3b>(7, 0), cv::Vec3b(114, 114, 114));
  EXPECT_EQ(result.at<cv::Vec3b>(8, 0), cv::Vec3b(1, 2, 3));
}

TEST(ReadImage, WidensGreyAndDropsAlpha) {
  const TempFolder folder;
  folder.write("grey.png", encoded(cv::Mat(20, 30, CV_8UC1, cv::Scalar(90)), ".png"));
  folder.write("alpha.png", encoded(cv::Mat(20, 30, CV_8UC4, cv::Scalar(1, 2, 3, 0)), ".png"));
  folder.write("deep.tif", encoded(cv::Mat(20, 30, CV_16UC3, cv::Scalar(256, 512, 768)), ".tif"));

  EXPECT_EQ(read_image(folder.at("grey.png")).pixels.at<cv::Vec3b>(0, 0), cv::Vec3b(90, 90, 90));
  EXPECT_EQ(read_image(folder.at("alpha.png")).pixels.at<cv::Vec3b>(0, 0), cv::Vec3b(1, 2, 3));
  EXPECT_EQ(read_image(folder.at("deep.tif")).pixels.at<cv::Vec3b>(0, 0), cv::Vec3b(1, 2, 3));
}

TEST(ReadImage, TurnsAnImageAsItsExifSays) {
  const TempFolder folder;
  std::string jpeg = encoded(cv::Mat(20, 40, CV_8UC3, cv::Scalar::all(9)), ".jpg");
  const std::string exif(
      "\xff\xe1\0\x22"
      "Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0",
      36);
  jpeg.insert(2, exif);  // Orientation 6: turned by a quarter.
  folder.write("turned.jpg", jpeg);

  EXPECT_EQ(read_image(folder.at("turned.jpg")).pixels.size(), cv::Size(20, 40));
}

TEST(ReadImage, NamesWhatItCannotUseAndNeverThrows) {
  const TempFolder folder;
  const std::string jpeg = encoded(cv::Mat(64, 64, CV_8UC3, cv::Scalar(9, 99, 200)), ".jpg");
  const std::string png = encoded(cv::Mat(64, 64, CV_8UC3, cv::Scalar(9, 99, 200)), ".png");
  // Decoders pass over bytes between two segments, and so must who looks for the size.
  std::string stray = jpeg;
  const std::size_t frame = stray.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  stray.replace(frame + 5, 4, "\xea\x60\xea\x60");
  stray.insert(frame, "stray");
  struct Case {
    std::string file, bytes, problem;
  };
  const std::vector<Case> cases = {
      {"empty.jpg", "", "is empty (0 bytes)."},
      {"text.jpg", "hello", "is no image: it begins with the bytes 68 65 6c 6c."},
      {"head.jpg", jpeg.substr(0, 30), "is a JPEG without a size in its header."},
      {"scan.jpg", jpeg.substr(0, jpeg.rfind("\xff\xda") + 4),
       "is no JPEG that can be decoded. It is cut short: the end marker of the JPEG is missing, "
       "and so may be a part of the image."},
      {"stray.jpg", stray, "is 60000 x 60000 pixels, more than the limit of 134217728."},
      {"head.png", png_header(64, 64), "is no PNG that can be decoded."},
      {"bomb.png", png_header(60000, 60000),
       "is 60000 x 60000 pixels, more than the limit of 134217728."},
      {"dicom.webp", "RIFF    WEBPVP8 " + std::string(112, ' ') + "DICM",
       "has the mark of a DICOM file at byte 128. Convert it to JPEG or PNG."},
      {"cut.pfm", "Pf\n64 64\n-1.0\n" + std::string(64 * 64 * 4 - 1, '\0'),
       "is a PFM that is cut short."},
      {"bomb.pfm", "PF\n60000 60000\n-1.0\n",
       "is 60000 x 60000 pixels, more than the limit of 134217728."},
      {"long.pfm", "PF\n" + std::string(56, '0') + "100 1000000\n-1.0\n",
       "is a PFM without a size in its header."},
      {"sizeless.pfm", "PF\n64 -64\n-1.0\n", "is a PFM without a size in its header."},
      {"tiny.png", encoded(cv::Mat(8, 8, CV_8UC3, cv::Scalar(1)), ".png"),
       "is 8 x 8 pixels, below the smallest side of 10."},
  };
  for (const auto& [file, bytes, problem] : cases) {
    SCOPED_TRACE(file);
    const trainer::ReadImage read = read_image(folder.write(file, bytes));
    EXPECT_TRUE(read.pixels.empty());
    EXPECT_EQ(read.problem, problem);
  }
  EXPECT_EQ(read_image(folder.at("none.jpg")).problem, "No such file or directory.");
  EXPECT_EQ(read_image(folder.at("")).problem, "not a regular file.");
}

// Floats from 0 to 255; the rows run upwards.
TEST(ReadImage, ReadsThePortableFloatMap) {
  const TempFolder folder;
  cv::Mat picture(20, 30, CV_32FC3, cv::Scalar(10, 20, 30));
  picture.at<cv::Vec3f>(0, 0) = {200, 100, 50};

  const trainer::ReadImage read = read_image(folder.write("a.pfm", encoded(picture, ".pfm")));

  ASSERT_EQ(read.problem, "");
  ASSERT_EQ(read.pixels.type(), CV_8UC3);
  ASSERT_EQ(read.pixels.size(), cv::Size(30, 20));
  EXPECT_EQ(read.pixels.at<cv::Vec3b>(0, 0), cv::Vec3b(200, 100, 50));
  EXPECT_EQ(read.pixels.at<cv::Vec3b>(19, 29), cv::Vec3b(10, 20, 30));
}

TEST(ReadImage, WidensAPortableFloatMapOfOneChannel) {
  const TempFolder folder;
  const cv::Mat picture(20, 30, CV_32FC1, cv::Scalar(77));

  const trainer::ReadImage read = read_image(folder.write("a.pfm", encoded(picture, ".pfm")));

  ASSERT_EQ(read.problem, "");
  ASSERT_EQ(read.pixels.type(), CV_8UC3);
  EXPECT_EQ(read.pixels.at<cv::Vec3b>(19, 29), cv::Vec3b(77, 77, 77));
}

TEST(ReadImage, DoesNotMistakeAThumbnailsEndForTheImages) {
  const TempFolder folder;
  std::string jpeg = encoded(cv::Mat(64, 64, CV_8UC3, cv::Scalar(9, 99, 200)), ".jpg");
  jpeg.insert(2, std::string("\xff\xe2\0\x08\xff\xda\xff\xd9..", 10));
  folder.write("whole.jpg", jpeg);
  folder.write("cut.jpg", jpeg.substr(0, jpeg.size() - 20));

  EXPECT_FALSE(read_image(folder.at("whole.jpg")).pixels.empty());
  EXPECT_EQ(read_image(folder.at("whole.jpg")).note, "");
  EXPECT_TRUE(read_image(folder.at("cut.jpg")).note.starts_with("is cut short"));
}

TEST(ReadImage, TakesWhatThereIsOfAJpegThatIsCutShortAndTheSameEachTime) {
  const TempFolder folder;
  cv::Mat picture(128, 128, CV_8UC3);
  cv::randu(picture, 0, 255);
  picture.rowRange(0, 32).setTo(cv::Scalar(9, 99, 200));
  const std::string jpeg = encoded(picture, ".jpg");
  const std::string path = folder.write("cut.jpg", jpeg.substr(0, jpeg.size() / 2));

  const trainer::ReadImage read = read_image(path);

  ASSERT_EQ(read.pixels.size(), cv::Size(128, 128));
  EXPECT_NEAR(read.pixels.at<cv::Vec3b>(4, 4)[2], 200, 4);
  for (int i = 0; i < 5; ++i) {
    const cv::Mat rubbish(300 + i, 128, CV_8UC3, cv::Scalar::all(17 * i));  // Dirties the heap.
    EXPECT_EQ(cv::norm(read_image(path).pixels, read.pixels, cv::NORM_INF), 0);
  }
}

TEST(WriteRgbPlanes, TurnsPixelsIntoPlanes) {
  cv::Mat image(2, 3, CV_8UC3, cv::Scalar(10, 20, 30));
  image.at<cv::Vec3b>(1, 2) = {1, 2, 3};
  std::vector<unsigned char> planes(18);

  trainer::write_rgb_planes(image, planes.data());

  EXPECT_EQ(planes, (std::vector<unsigned char>{30, 30, 30, 30, 30, 3, 20, 20, 20, 20, 20, 2, 10,
                                                10, 10, 10, 10, 1}));
}

}  // namespace
