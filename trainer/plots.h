// SPDX-License-Identifier: Apache-2.0
// trainer/plots.h
//
// Pictures of a run and of a validation, under the reference's names, all of them PNG. Each is there whole or
// not at all; std::system_error names the one that cannot be written.
#pragma once

#include <string>
#include <vector>

#include "trainer/average_precision.h"
#include "trainer/confusion.h"
#include "trainer/contract/dataset.h"
#include "trainer/detection.h"

namespace trainer {

struct Batch;

// FOLDER/results.png: losses and metrics over the epochs of FOLDER/results.csv. Nothing is written
// where the file has no row. Throws std::runtime_error where it lacks a column.
void plot_results(const std::string& folder);

// FOLDER/PR_curve.png, F1_curve.png, P_curve.png, R_curve.png: each class and the mean of all.
void plot_curves(const std::vector<ClassCurves>& curves, const std::vector<std::string>& names,
                 const std::string& folder);

// FOLDER/confusion_matrix.png (counts) and confusion_matrix_normalized.png (shares of the true
// class), with the background as the last row and column. Nothing is written of more classes than
// kConfusionClassesMax, which would have less than a pixel each.
inline constexpr int kConfusionClassesMax = 500;
void plot_confusion(const ConfusionMatrix& matrix, const std::vector<std::string>& names,
                    const std::string& folder);

// FOLDER/labels.png: boxes of each class, where they lie, how large they are, their shapes.
void plot_labels(const std::vector<contract::ImageEntry>& images,
                 const std::vector<std::string>& names, const std::string& folder);

// Up to 16 images of a batch with their labels, or with what was detected in each of them (in the
// letterboxed frame) with at least the confidence kPlotConfidence.
inline constexpr float kPlotConfidence = 0.25F;
void plot_batch(const Batch& batch, const std::vector<std::string>& names, const std::string& path);
void plot_batch(const Batch& batch, const std::vector<std::vector<Detection>>& detections,
                const std::vector<std::string>& names, const std::string& path);

}  // namespace trainer
