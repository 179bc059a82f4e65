# SPDX-License-Identifier: Apache-2.0
#
# The data half of the trainer: reading, augmenting and batching images, and measuring results.
# Headers that show OpenCV's types are private.
set(TRAINER_DATA_HEADERS
  average_precision.h class_weights.h confusion.h dataset_check.h detection.h evaluate.h loader.h
  plots.h random.h sampler.h scenes.h)
set(trainer_data_plain_sources
  augment.cpp average_precision.cpp chart.cpp class_weights.cpp confusion.cpp dataset_check.cpp
  draw.cpp image.cpp image_cache.cpp image_store.cpp media.cpp plots.cpp predictions.cpp
  prefetcher.cpp rect.cpp sampler.cpp scenes.cpp)
set(TRAINER_DATA_SOURCES
  batch_plots.cpp evaluate.cpp loader.cpp nms.cpp predictor.cpp ${trainer_data_plain_sources})
# Without torch: quick to compile.
set_source_files_properties(${trainer_data_plain_sources} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
