"""What the sources claim, by number, and what shows it here: tests that are in the tree, figures that were kept."""

from dataclasses import dataclass

import pytest

from tests import proofs

T = "tests/training/"
STARTS = "starts.json: cells > 2000 images, 64 px, 50 epochs without labels > starts"


@dataclass(frozen=True)
class Claim:
    """What is claimed, in a few words, and what shows it."""

    words: str
    shown: tuple[str, ...]


def claim(words: str, *shown: str) -> Claim:
    return Claim(words, shown)


CLAIMS = {
    1: claim(
        "many images, different ones: everything trains at a tenth of the rate",
        f"{T}tuning/test_loop.py::test_every_part_moves_in_one_step_at_a_tenth_of_the_original_rate",
        f"{T}advice/test_decide.py::test_what_each_regime_trains_is_what_it_is_called_for",
    ),
    2: claim(
        "many images, similar ones: late layers and the head train, the rest stays",
        f"{T}tuning/test_model.py::test_exactly_what_is_unfrozen_changes",
        f"{T}tuning/test_loop.py::test_only_what_is_said_to_be_trained_has_changed",
        f"{T}advice/test_decide.py::test_what_each_regime_trains_is_what_it_is_called_for",
    ),
    3: claim(
        "few images, different ones: choose how many layers, augment; everything is tried beside it by auto alone",
        f"{T}test_race.py::test_of_three_depths_the_best_is_found_and_the_regime_leaves_early_stages_alone",
        f"{T}advice/test_decide.py::test_four_data_sets_are_each_where_they_belong",
        f"{T}test_race.py::test_what_trains_most_has_to_lose_by_more_than_luck",
        f"{T}advice/test_decide.py::test_what_each_regime_trains_is_what_it_is_called_for",
    ),
    4: claim(
        "few images, similar ones: the head alone trains",
        f"{T}test_fit.py::test_only_head_tensors_differ_from_the_pretrained_file",
    ),
    5: claim(
        "size and similarity make four quadrants",
        f"{T}advice/test_decide.py::test_four_data_sets_are_each_where_they_belong",
        f"{T}advice/test_decide.py::test_decision_json_is_read_back_and_holds_everything",
        f"{T}advice/test_advise.py::test_the_same_images_give_the_same_file_wherever_they_lie",
        f"{T}test_scenarios.py::test_left_alone_it_races_what_the_evidence_names_and_writes_down_why",
        "advisor.json: summary > mean_regret",
    ),
    6: claim(
        "at worst: a linear classifier on layers in the middle",
        f"{T}advice/test_decide.py::test_a_label_that_depends_on_texture_is_told_best_by_an_early_stage",
        f"{T}advice/test_probes.py::test_the_best_stage_is_the_one_that_tells_the_labels",
        f"{T}test_fitting.py::test_the_taps_are_chosen_and_of_equals_the_cheapest",
        f"{T}test_served.py::test_a_head_on_an_early_stage_is_exported",
    ),
    7: claim(
        "early layers see edges and colours, late ones what is there: look at them",
        f"{T}insight/test_visualize.py::test_a_picture_of_every_stage_has_the_cells_of_its_stride",
        f"{T}insight/test_maps.py::test_every_stage_has_as_many_cells_as_its_stride_says",
        f"{T}insight/test_filters.py::test_filters_are_drawn_in_the_colours_that_they_answer_to",
        f"{T}advice/test_decide.py::test_a_label_that_depends_on_texture_is_told_best_by_an_early_stage",
    ),
    8: claim(
        "a tenth of the original rate; a large one leaves the optimum",
        f"{T}tuning/test_rates.py::test_fine_tuning_takes_a_tenth_of_the_original_scaled_with_the_batch",
        f"{T}tuning/test_rates.py::test_a_rate_over_the_original_warns",
        f"{T}tuning/test_loop.py::test_ten_times_the_original_comes_apart_where_a_tenth_of_it_learns",
        f"{T}tuning/test_loop.py::test_a_rate_far_too_high_is_stopped_with_what_to_do",
    ),
    9: claim(
        "a stable optimizer, such as SGD",
        f"{T}tuning/test_optimizer.py::test_sgd_is_the_default_with_a_momentum_after_nesterov",
        f"{T}tuning/test_optimizer.py::test_norms_biases_and_what_is_anchored_do_not_decay",
    ),
    10: claim(
        "new layers are random: train them before anything else",
        f"{T}tuning/test_origin.py::test_a_random_head_is_not_trained_with_a_pretrained_backbone",
        f"{T}tuning/test_loop.py::test_a_random_head_is_refused_over_a_pretrained_backbone",
        f"{T}test_tuned.py::test_it_answers_at_least_as_rightly_as_the_probe",
    ),
    11: claim(
        "saved bottleneck features save time",
        f"{T}test_fit.py::test_a_second_fit_passes_no_image_through_the_backbone",
        f"{T}test_fit.py::test_another_view_geometry_or_file_misses_the_cache",
        f"{T}test_fit.py::test_other_weights_miss_the_cache",
        f"{T}test_features.py::test_any_other_fact_misses",
        f"{T}test_fit.py::test_the_head_on_cached_features_is_the_head_on_live_pixels",
        "bottleneck.json: summary > ratio",
    ),
    12: claim(
        "few images: augmentation and dropout",
        f"{T}tuning/test_augmentation.py::test_presets_grow",
        f"{T}tuning/test_model.py::test_dropout_is_for_training_alone",
        f"{T}test_fit.py::test_more_views_are_of_training_images_alone",
        f"{T}tuning/test_batches.py::test_so_many_views_come_in_turn_and_are_what_a_cache_can_keep",
    ),
    13: claim(
        "frozen early layers are faster: no gradient is computed",
        f"{T}tuning/test_model.py::test_no_gradient_function_at_the_cut",
        f"{T}test_freezing.py::test_no_gradient_is_computed_in_what_is_frozen",
        f"{T}tuning/test_activations.py::test_cached_and_uncached_epochs_give_the_same_weights",
        "cut.json: cells > from c5, kept as fp32, 600 images, 4 epochs > ratio",
        "crossing.json: cells > 96 px, 10 classes, 250 a class, seed 0 > way_seconds > large-similar",
    ),
    14: claim(
        "frozen for few labels, fine-tuning for many",
        f"{T}advice/test_decide.py::test_many_images_of_many_classes_are_few_of_each_and_both_sizes_are_raced",
        f"{T}advice/test_probes.py::test_the_curve_rises_with_the_images_and_ends_at_the_probe",
        "crossing.json: summary > sizes > 10 classes, 10 a class > ahead > large-similar",
        "crossing.json: summary > sizes > 10 classes, 250 a class > ahead > large-similar",
    ),
    15: claim(
        "two scenarios: fine-tune everything, or a fixed extractor",
        f"{T}test_scenarios.py::test_a_fixed_extractor_keeps_every_number",
        f"{T}test_scenarios.py::test_fine_tuning_moves_every_parameter_and_no_statistic",
    ),
    16: claim(
        "freeze, then put on a linear layer of so many classes",
        f"{T}architectures/test_every.py::test_frozen_it_stays_and_free_it_learns",
        f"{T}architectures/test_every.py::test_the_classifier_reads_the_embedding",
    ),
    17: claim(
        "the optimizer is given the head alone",
        f"{T}tuning/test_optimizer.py::test_it_is_given_trained_parameters_alone",
        f"{T}test_baselines.py::test_the_optimizer_of_the_sgd_head_has_the_tensors_of_the_head_alone",
    ),
    18: claim(
        "frozen parameters in an optimizer do no harm",
        f"{T}tuning/test_optimizer.py::test_frozen_parameters_in_an_optimizer_do_no_harm_without_a_gradient",
        f"{T}tuning/test_optimizer.py::test_what_is_frozen_in_the_middle_goes_on_moving_unless_its_gradient_goes",
    ),
    19: claim(
        "loaded weights learn, too, unless they are told not to",
        f"{T}test_freezing.py::test_loaded_weights_learn_unless_they_are_frozen",
        f"{T}test_description.py::test_it_counts_what_was_trained_and_what_is_frozen",
        f"{T}test_description.py::test_a_frozen_run_of_which_everything_was_trained_is_refused",
    ),
    20: claim(
        "a frozen head of 3 and 10 classes needs tuning",
        f"{T}test_baselines.py::test_the_head_is_at_least_as_accurate_as_the_sgd_head_for_3_and_10_classes",
        f"{T}test_logistic.py::test_a_solver_that_ran_out_of_iterations_says_so",
        f"{T}test_fitting.py::test_a_solver_that_did_not_converge_is_told_of",
    ),
    21: claim(
        "94 % on CIFAR-10 after one epoch: of a ResNet-18, at a size that is not told; here Lite0 at 96 and 224 px",
        "one_epoch.json: cells > quick, seed 0 > accuracy",
        "one_epoch.json: cells > best, seed 0 > accuracy",
    ),
    22: claim(
        "frozen on CIFAR-10: never over 90 %",
        "cifar10.json: cells > linear head, 160 px, 0 views > accuracy > value",
        "cifar10.json: cells > linear head, 160 px, 0 views > baselines > SGD head",
        f"{T}test_extract.py::test_the_backbone_is_not_changed",
    ),
    23: claim(
        "the more classes, the larger the gap between frozen and fine-tuned",
        "crossing.json: summary > sizes > 2 classes, 250 a class > ahead > large-similar",
        "crossing.json: summary > sizes > 10 classes, 250 a class > ahead > large-similar",
    ),
    24: claim(
        "any data set: 30 classes to 2, 1,000 to C",
        f"{T}test_fit.py::test_an_easy_problem_is_solved",
        f"{T}test_fit.py::test_the_label_map_is_in_the_run_the_metrics_and_the_bundle",
        f"{T}test_rows.py::test_rows_are_taken_over_and_the_others_prefer_no_class",
        f"{T}advice/test_probes.py::test_a_thousand_classes_work",
    ),
    25: claim(
        "train everything after attaching layers, or the added part alone",
        f"{T}test_fit.py::test_other_heads_are_trained_on_request",
        f"{T}tuning/test_model.py::test_exactly_what_is_unfrozen_changes",
    ),
    26: claim(
        "another input shape",
        f"{T}architectures/test_every.py::test_it_sees_small_pictures",
        f"{T}architectures/test_every.py::test_one_channel_answers_as_three_alike",
        f"{T}architectures/test_building.py::test_an_input_may_have_any_number_of_channels",
        f"{T}test_lite0.py::test_taps_have_the_shapes_that_the_card_says",
    ),
    27: claim(
        "another classifier on the same weights",
        f"{T}architectures/test_weights.py::test_a_classifier_is_left_out_where_the_module_has_none_and_told",
        f"{T}architectures/test_weights.py::test_missing_tensors_are_named_and_counted",
        f"{T}architectures/test_weights.py::test_tensors_without_a_place_are_named",
        f"{T}architectures/test_weights.py::test_tensors_of_another_shape_are_named",
    ),
    28: claim(
        "A, B and C frozen: exactly D, E and the head change",
        f"{T}tuning/test_model.py::test_exactly_what_is_unfrozen_changes",
        f"{T}architectures/test_every.py::test_the_parts_hold_every_tensor_once_and_run_in_their_order",
    ),
    29: claim(
        "batch norms of what is frozen stay, whatever the mode",
        f"{T}test_freezing.py::test_train_mode_and_forward_move_no_buffer_and_drop_nothing",
        f"{T}test_freezing.py::test_without_it_batch_norms_would_move",
        f"{T}test_freezing.py::test_a_learning_rate_of_nothing_is_no_freeze",
        f"{T}tuning/test_model.py::test_mode_of_frozen_parts_survives_train",
        f"{T}tuning/test_loop.py::test_batch_norms_of_trained_parts_follow_the_plan",
    ),
    30: claim(
        "same data, same purpose: the published model as it is",
        "tests/integration/test_imagenet.py::test_top_1_of_the_thousand_samples_is_as_published",
        "tests/integration/test_imagenet.py::test_photographs_are_named",
        f"{T}test_regimes.py::test_a_run_as_it_is_says_everything_that_its_card_does",
        "accuracy.json: top_1",
        "accuracy.json: top_5",
    ),
    31: claim(
        "pretrained on similar classes, over a million images",
        f"{T}architectures/test_catalogue.py::test_every_card_says_what_must_be_known",
        f"{T}test_backbones.py::test_a_published_file_of_torch_hub_becomes_a_run_as_it_is",
    ),
    32: claim(
        "feature extraction is reuse and no learning",
        f"{T}test_extract.py::test_the_backbone_is_not_changed",
        f"{T}test_extract.py::test_rows_are_the_backbones_in_the_order_of_the_manifest",
        f"{T}test_features.py::test_extraction_changes_no_parameter_and_no_buffer",
    ),
    35: claim(
        "VGG, ResNet, AlexNet, GoogLeNet, LeNet",
        f"{T}architectures/test_catalogue.py::test_every_backbone_of_the_house_is_listed",
        f"{T}architectures/test_every.py::test_it_is_exported",
        f"{T}architectures/test_every.py::test_it_has_as_many_parameters_as_torchvision_published",
    ),
    36: claim(
        "GoogLeNet: 22 layers, nine Inception modules of four branches",
        f"{T}architectures/test_building.py::test_googlenet_has_nine_inception_blocks_of_four_branches_and_one_classifier",
        f"{T}architectures/test_building.py::test_googlenet_is_22_layers_deep",
    ),
    37: claim(
        "ResNet: 152 layers and skip connections",
        f"{T}architectures/test_building.py::test_a_resnet_is_as_deep_as_it_says",
    ),
    38: claim(
        "VGG-16 and -19 are called by their layers; LeNet's three kinds",
        f"{T}architectures/test_building.py::test_a_vgg_is_as_deep_as_it_says",
        f"{T}architectures/test_lenet.py::test_its_layers_have_the_shapes_of_the_paper",
    ),
    39: claim(
        "pretrained models of PyTorch and TensorFlow can be had",
        f"{T}architectures/test_weights.py::test_tensors_arrive_one_to_one",
        f"{T}architectures/test_weights.py::test_safetensors_are_read",
        f"{T}architectures/test_weights.py::test_names_of_another_implementation_are_matched_by_position",
        f"{T}test_lite0.py::test_a_daisy_is_a_daisy",
        f"{T}architectures/test_catalogue.py::test_pixels_and_rates_are_those_of_pretraining",
    ),
    40: claim(
        "some contests forbid pretrained models",
        f"{T}test_backbones.py::test_scratch_says_that_nothing_was_pretrained",
        f"{T}test_scenarios.py::test_a_random_start_says_that_nothing_was_pretrained",
        f"{T}tuning/test_loop.py::test_everything_may_start_random",
    ),
    41: claim(
        "few labels: learning without them first, then fine-tuning",
        f"{T}pretraining/test_pretrain.py::test_the_loss_of_an_autoencoder_falls",
        f"{T}pretraining/test_pretrain.py::test_weights_are_written_with_all_that_they_follow_from",
        f"{T}pretraining/test_pretrain.py::test_a_fit_begins_with_them_and_its_run_says_so",
        f"{T}test_compare.py::test_every_start_is_trained_with_every_part_of_the_labels",
        f"{STARTS} > 1%, vicreg > accuracy > value",
    ),
    42: claim(
        "learning without labels first is needed no more: that is measured, not said",
        f"{T}test_compare.py::test_every_start_is_trained_with_every_part_of_the_labels",
        f"{T}test_comparison.py::test_arrived_is_nearly_the_best_of_any_start_with_as_many_labels",
        f"{T}test_comparison.py::test_what_speaks_against_it_is_said",
        f"{STARTS} > 100%, vicreg > accuracy > value",
    ),
    43: claim(
        "a random start catches up after long enough",
        f"{T}test_compare.py::test_all_have_one_schedule_and_a_whole_curve",
        f"{T}test_comparison.py::test_arrived_is_nearly_the_best_of_any_start_with_as_many_labels",
        f"{T}test_comparison.py::test_the_page_draws_every_start_and_escapes_names",
        f"{STARTS} > 100%, random > accuracy > value",
    ),
    44: claim(
        "transfer learning, fine-tuning, pretraining, backbone: the words",
        "tests/docs/test_glossary.py::test_the_sources_words_are_there",
        "tests/docs/test_glossary.py::test_the_program_uses_the_words",
    ),
}

ELSEWHERE = {33: "feature maps for detection, segmentation and pose", 34: "features handed on over gRPC"}


def test_every_claim_has_its_place_and_only_one() -> None:
    places = [*CLAIMS, *ELSEWHERE]
    assert sorted(places) == list(range(1, 45))


@pytest.mark.parametrize("number", CLAIMS)
def test_what_shows_a_claim_is_there(number: int) -> None:
    assert CLAIMS[number].shown
    assert [each for each in CLAIMS[number].shown if not proofs.is_there(each)] == []


def test_frozen_figures_keep_what_was_promised() -> None:
    cell = "cifar10.json: cells > linear head, 160 px, 0 views"
    assert proofs.figure(f"{cell} > accuracy > value") > 0.85
    assert proofs.figure("bottleneck.json: summary > ratio") > 10
    assert proofs.figure("accuracy.json: top_1") == pytest.approx(0.883, abs=0.005)


def test_what_frozen_layers_make_is_worth_keeping_and_changes_nothing() -> None:
    for place, most in (("top", 0.1), ("c5", 0.5), ("c4", 0.8)):
        cell = f"cut.json: cells > from {place}, kept as fp32, 600 images, 4 epochs"
        assert proofs.figure(f"{cell} > ratio") < most
        assert proofs.figure(f"{cell} > largest_difference") == 0


def test_what_lies_behind_frozen_layers_trains_in_less_time() -> None:
    cell = "crossing.json: cells > 96 px, 10 classes, 250 a class, seed 0"
    late, everything = (proofs.figure(f"{cell} > way_seconds > large-{each}") for each in ("similar", "different"))
    assert late < 0.8 * everything


@pytest.mark.parametrize("labels", ["1%", "10%", "100%"])
def test_no_start_was_as_good_as_the_published_weights(labels: str) -> None:
    published, *others = (
        proofs.figure(f"{STARTS} > {labels}, {start} > accuracy > {bound}")
        for start, bound in (("pretrained", "low"), ("vicreg", "high"), ("denoising", "high"), ("random", "high"))
    )
    assert published > max(others)


def test_the_advisor_loses_and_costs_no_more_than_was_promised() -> None:
    for figure, most in (("mean_regret", 0.01), ("worst_regret", 0.03), ("mean_cost", 0.2), ("hours", 3)):
        assert proofs.figure(f"advisor.json: summary > {figure}") <= most


def test_one_quick_pass_is_as_right_and_as_soon_as_was_promised() -> None:
    seeds = [f"one_epoch.json: cells > quick, seed {seed}" for seed in range(3)]
    assert min(proofs.figure(f"{seed} > accuracy") for seed in seeds) >= 0.889
    assert max(proofs.figure(f"{seed} > minutes") for seed in seeds) <= 10
    assert proofs.figure("one_epoch.json: cells > best, seed 0 > minutes") <= 90


def test_a_proof_that_is_not_there_is_told() -> None:
    assert proofs.is_there("tests/contract/test_claims.py::test_a_proof_that_is_not_there_is_told")
    assert not proofs.is_there("tests/contract/test_claims.py::test_that_nobody_wrote")
    assert not proofs.is_there("nothing.json: summary > ratio")
    assert not proofs.is_there("bottleneck.json: summary > nothing")


@pytest.mark.parametrize(
    ("classes", "count"), [*((classes, count) for classes in (2, 3, 5, 10) for count in (10, 250)), (10, 5000)]
)
def test_fine_tuning_is_ahead_with_few_images_and_with_more(classes: int, count: int) -> None:
    """Few labels are no reason to keep a backbone frozen: footnote 20."""
    size = f"crossing.json: summary > sizes > {classes} classes, {count} a class"
    ahead, error = (proofs.figure(f"{size} > {figure} > large-similar") for figure in ("ahead", "error"))
    assert ahead > 2 * error


@pytest.mark.parametrize("classes", [3, 5, 10])
def test_of_more_than_two_classes_more_images_take_it_further_ahead(classes: int) -> None:
    few, many = (
        proofs.figure(f"crossing.json: summary > sizes > {classes} classes, {count} a class > ahead > large-similar")
        for count in (10, 250)
    )
    assert many > few
