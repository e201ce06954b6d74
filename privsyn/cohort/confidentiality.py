"""The DICOM attributes that may identify a person: the rows of table E.1-1 of DICOM PS3.15.

The table lists what the Basic Application Level Confidentiality Profile removes, empties or replaces in any
object: names, dates, places, devices, UIDs, free text, and the sequences that hold them. Edition 2026c, 652
attributes, sorted by keyword. The actions of the table are left out, because privsyn reports what is there
and changes no file: https://dicom.nema.org/medical/dicom/2026c/output/chtml/part15/chapter_E.html#table_E.1-1

The list was taken from the tags in dicom-anonymizer 2.1.0 (2026c) and compared with idiscore 1.2.0, another
parse of an edition after 2024b: its 619 attributes are all here, and the other 33 are newer than it.

Besides these rows the table names three kinds of tags by a pattern: private ones (odd groups), curves
(all of groups 50xx) and overlays (60xx,3000 and 60xx,4000).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from privsyn.cohort.entries import MARK_LENGTH

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CURVE_GROUPS = range(0x5000, 0x5100, 2)
OVERLAY_GROUPS = range(0x6000, 0x6100, 2)

NEWER: dict[int, str] = {
    0x00081301: "PrincipalDiagnosisCodeSequence",
    0x00081302: "PrimaryDiagnosisCodeSequence",
    0x00081303: "SecondaryDiagnosesCodeSequence",
    0x00081304: "HistologicalDiagnosesCodeSequence",
    0x00100011: "PersonNamesToUseSequence",
    0x00100012: "NameToUse",
    0x00100013: "NameToUseComment",
    0x00100014: "ThirdPersonPronounsSequence",
    0x00100015: "PronounCodeSequence",
    0x00100016: "PronounComment",
    0x00100041: "GenderIdentitySequence",
    0x00100042: "SexParametersForClinicalUseCategoryComment",
    0x00100043: "SexParametersForClinicalUseCategorySequence",
    0x00100044: "GenderIdentityCodeSequence",
    0x00100045: "GenderIdentityComment",
    0x00100046: "SexParametersForClinicalUseCategoryCodeSequence",
    0x00100047: "SexParametersForClinicalUseCategoryReference",
    0x00102162: "EthnicGroups",
    0x0040A034: "EffectiveStartDateTime",
    0x0040A035: "EffectiveStopDateTime",
    0x0040B034: "AnnotationDateTime",
    0x0040B036: "SegmentDefinitionDateTime",
    0x0040B03B: "MontageName",
    0x0040B03F: "MontageChannelLabel",
    0x0040E012: "DisplayURI",
}
"""Tag to keyword of the rows that the dictionary of pydicom 3.0 does not have yet."""

_ROWS = """
AccessionNumber AcquisitionComments AcquisitionContextDescription AcquisitionContextSequence AcquisitionDate
AcquisitionDateTime AcquisitionDeviceProcessingDescription AcquisitionFieldOfViewLabel
AcquisitionProtocolDescription AcquisitionTime AcquisitionUID ActualHumanPerformersSequence
AdditionalPatientHistory AddressTrial AdmissionID AdmittingDate AdmittingDiagnosesCodeSequence
AdmittingDiagnosesDescription AdmittingTime AffectedSOPInstanceUID Allergies AnnotationDateTime
AnnotationGroupDescription AnnotationGroupLabel AnnotationGroupUID ApprovalStatusDateTime Arbitrary
AssertionDateTime AssertionExpirationDateTime AttributeModificationDateTime AuthorObserverSequence
BarcodeValue BeamDescription BeamHoldTransitionDateTime BolusDescription BranchOfService CalibrationDate
CalibrationDateTime CalibrationTime CameraOwnerName CassetteID CertificateOfSigner CertifiedTimestamp
ChannelDerivationDescription ChannelLabel ClinicalTrialCoordinatingCenterName
ClinicalTrialProtocolEthicsCommitteeApprovalNumber ClinicalTrialProtocolEthicsCommitteeName
ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSeriesDescription ClinicalTrialSeriesID
ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSponsorName ClinicalTrialSubjectID
ClinicalTrialSubjectReadingID ClinicalTrialTimePointDescription ClinicalTrialTimePointID
CommentsOnRadiationDose CommentsOnThePerformedProcedureStep CompensatorDescription ConcatenationUID
ConceptualVolumeCombinationDescription ConceptualVolumeDescription ConceptualVolumeUID
ConfidentialityConstraintOnPatientDataDescription ConstituentConceptualVolumeUID
ConsultingPhysicianIdentificationSequence ConsultingPhysicianName ContainerComponentID ContainerDescription
ContainerIdentifier ContentCreatorIdentificationCodeSequence ContentCreatorName ContentDate ContentSequence
ContentTime ContextGroupLocalVersion ContextGroupVersion ContrastBolusAgent ContrastBolusStartTime
ContrastBolusStopTime ContributionDateTime ContributionDescription CountryOfResidence CreationDate
CreationTime CurrentObserverTrial CurrentPatientLocation CurveDate CurveTime CustodialOrganizationSequence
DataSetTrailingPadding Date DateOfDocumentOrVerbalTransactionTrial DateOfInstallation DateOfLastCalibration
DateOfLastDetectorCalibration DateOfManufacture DateOfSecondaryCapture DateTime DateTimeOfLastCalibration
DecayCorrectionDateTime DecompositionDescription DerivationDescription DestinationAE DetectorID
DeviceAlternateIdentifier DeviceDescription DeviceLabel DeviceSerialNumber DeviceSettingDescription DeviceUID
DigitalSignatureDateTime DigitalSignatureUID DigitalSignaturesSequence DimensionOrganizationUID DischargeDate
DischargeDiagnosisDescription DischargeTime DisplacementReferenceLabel DisplayURI DistributionAddress
DistributionName DoseReferenceDescription DoseReferenceUID DosimetricObjectiveUID EffectiveDateTime
EffectiveStartDateTime EffectiveStopDateTime EncapsulatedDocument EndAcquisitionDateTime EntityDescription
EntityLabel EntityLongLabel EntityName EquipmentFrameOfReferenceDescription
EthicsCommitteeApprovalEffectivenessEndDate EthicsCommitteeApprovalEffectivenessStartDate EthnicGroup
EthnicGroupCodeSequence EthnicGroups ExclusionStartDateTime ExpectedCompletionDateTime
FailedSOPInstanceUIDList FiducialUID FillerOrderNumberImagingServiceRequest FilterLookupTableDescription
FindingsGroupRecordingDateTrial FindingsGroupRecordingTimeTrial FirstTreatmentDate FixationDeviceDescription
FlowIdentifier FlowIdentifierSequence FractionGroupDescription FractionationNotes FrameAcquisitionDateTime
FrameComments FrameOfReferenceUID FrameOriginTimestamp FrameReferenceDateTime FunctionalSyncPulse GPSAltitude
GPSAltitudeRef GPSAreaInformation GPSDOP GPSDateStamp GPSDestBearing GPSDestBearingRef GPSDestDistance
GPSDestDistanceRef GPSDestLatitude GPSDestLatitudeRef GPSDestLongitude GPSDestLongitudeRef GPSDifferential
GPSImgDirection GPSImgDirectionRef GPSLatitude GPSLatitudeRef GPSLongitude GPSLongitudeRef GPSMapDatum
GPSMeasureMode GPSProcessingMethod GPSSatellites GPSSpeed GPSSpeedRef GPSStatus GPSTimeStamp GPSTrack
GPSTrackRef GPSVersionID GantryID GenderIdentityCodeSequence GenderIdentityComment GenderIdentitySequence
GeneratorID GraphicAnnotationSequence HL7DocumentEffectiveTime HangingProtocolCreationDateTime
HardcopyCreationDeviceID HistologicalDiagnosesCodeSequence HumanPerformerName HumanPerformerOrganization
IconImageSequence IdentifyingComments ImageComments ImagePresentationComments ImagingServiceRequestComments
ImpedanceMeasurementDateTime Impressions InformationIssueDateTime InstanceCoercionDateTime
InstanceCreationDate InstanceCreationTime InstanceCreatorUID InstanceOriginStatus InstitutionAddress
InstitutionCodeSequence InstitutionName InstitutionalDepartmentName InstitutionalDepartmentTypeCodeSequence
InstructionPerformedDateTime InsurancePlanIdentification IntendedFractionStartTime IntendedPhaseEndDate
IntendedPhaseStartDate IntendedRecipientsOfResultsIdentificationSequence InterlockDateTime
InterlockDescription InterlockOriginDescription InterpretationApprovalDate InterpretationApprovalTime
InterpretationApproverSequence InterpretationAuthor InterpretationDiagnosisDescription InterpretationID
InterpretationIDIssuer InterpretationRecordedDate InterpretationRecordedTime InterpretationRecorder
InterpretationText InterpretationTranscriber InterpretationTranscriptionDate InterpretationTranscriptionTime
InterventionDrugStartTime InterventionDrugStopTime IrradiationEventUID IssueDateOfImagingServiceRequest
IssueTimeOfImagingServiceRequest IssuerOfAdmissionID IssuerOfAdmissionIDSequence
IssuerOfClinicalTrialProtocolID IssuerOfClinicalTrialSeriesID IssuerOfClinicalTrialSiteID
IssuerOfClinicalTrialSubjectID IssuerOfClinicalTrialSubjectReadingID IssuerOfClinicalTrialTimePointID
IssuerOfPatientID IssuerOfServiceEpisodeID IssuerOfServiceEpisodeIDSequence
IssuerOfTheContainerIdentifierSequence IssuerOfTheSpecimenIdentifierSequence LabelText
LargePaletteColorLookupTableUID LastMenstrualDate LensMake LensModel LensSerialNumber LensSpecification
LongDeviceDescription MAC MakerNote ManufacturerDeviceClassUID ManufacturerDeviceIdentifier
MediaStorageSOPInstanceUID MedicalAlerts MedicalRecordLocator MilitaryRank ModifiedAttributesSequence
ModifiedImageDate ModifiedImageDescription ModifiedImageTime ModifyingDeviceID ModifyingSystem
MontageChannelLabel MontageName MostRecentTreatmentDate MultienergyAcquisitionDescription MultiplexGroupLabel
MultiplexGroupUID NameOfPhysiciansReadingStudy NameToUse NameToUseComment NamesOfIntendedRecipientsOfResults
NetworkID NonconformingDataElementValue NonconformingModifiedAttributesSequence ObservationDateTime
ObservationDateTrial ObservationStartDateTime ObservationSubjectUIDTrial ObservationTimeTrial ObservationUID
Occupation OperatorIdentificationSequence OperatorsName OrderCallbackPhoneNumber
OrderCallbackTelecomInformation OrderEnteredBy OrderEntererLocation OriginalAttributesSequence Originator
OtherClinicalTrialProtocolIDsSequence OtherPatientIDs OtherPatientIDsSequence OtherPatientNames OverlayDate
OverlayTime OverrideDateTime PaletteColorLookupTableUID ParticipantSequence ParticipationDateTime
PatientAddress PatientAge PatientBirthDate PatientBirthName PatientBirthTime PatientComments PatientID
PatientInstitutionResidence PatientInsurancePlanCodeSequence PatientMotherBirthName PatientName
PatientPrimaryLanguageCodeSequence PatientPrimaryLanguageModifierCodeSequence PatientReligiousPreference
PatientSetupPhotoDescription PatientSetupUID PatientSex PatientSexNeutered PatientSize PatientState
PatientTelecomInformation PatientTelephoneNumbers PatientTransportArrangements
PatientTreatmentPreparationMethodDescription PatientTreatmentPreparationProcedureParameterDescription
PatientWeight PerformedLocation PerformedProcedureStepDescription PerformedProcedureStepEndDate
PerformedProcedureStepEndDateTime PerformedProcedureStepEndTime PerformedProcedureStepID
PerformedProcedureStepStartDate PerformedProcedureStepStartDateTime PerformedProcedureStepStartTime
PerformedStationAETitle PerformedStationGeographicLocationCodeSequence PerformedStationName
PerformedStationNameCodeSequence PerformingPhysicianIdentificationSequence PerformingPhysicianName
PersonAddress PersonIdentificationCodeSequence PersonName PersonNamesToUseSequence PersonTelecomInformation
PersonTelephoneNumbers PhysicianApprovingInterpretation PhysiciansOfRecord
PhysiciansOfRecordIdentificationSequence PhysiciansReadingStudyIdentificationSequence
PlacerOrderNumberImagingServiceRequest PlateID PositionAcquisitionTemplateDescription
PositionAcquisitionTemplateName PreMedication PregnancyStatus PrescriptionDescription PrescriptionNotes
PrescriptionNotesSequence PresentationCreationDate PresentationCreationTime PresentationDisplayCollectionUID
PresentationSequenceCollectionUID PrimaryDiagnosisCodeSequence PrincipalDiagnosisCodeSequence
PriorTreatmentDoseDescription ProcedureStepCancellationDateTime ProductExpirationDateTime PronounCodeSequence
PronounComment ProtocolName PyramidDescription PyramidLabel PyramidUID ROICreatorSequence ROIDateTime
ROIDescription ROIGenerationDescription ROIInterpreter ROIInterpreterSequence ROIName ROIObservationDateTime
ROIObservationDescription ROIObservationLabel RTAccessoryDeviceSlotID RTAccessoryHolderSlotID
RTPhysicianIntentNarrative RTPlanDate RTPlanDescription RTPlanLabel RTPlanName RTPlanTime RTPrescriptionLabel
RTToleranceSetLabel RTTreatmentApproachLabel RTTreatmentPhaseUID RadiationDoseIdentificationLabel
RadiationDoseInVivoMeasurementLabel RadiationGenerationModeDescription RadiationGenerationModeLabel
RadiopharmaceuticalStartDateTime RadiopharmaceuticalStartTime RadiopharmaceuticalStopDateTime
RadiopharmaceuticalStopTime ReasonForOmissionDescription ReasonForRequestedProcedureCodeSequence
ReasonForStudy ReasonForSuperseding ReasonForTheAttributeModification ReasonForTheImagingServiceRequest
ReasonForTheRequestedProcedure ReasonForVisit ReasonForVisitCodeSequence ReceivingAE
RecordedRTControlPointDateTime ReferencedConceptualVolumeUID ReferencedDateTime
ReferencedDigitalSignatureSequence ReferencedDoseReferenceUID ReferencedDosimetricObjectiveUID
ReferencedFiducialsUID ReferencedFrameOfReferenceUID
ReferencedGeneralPurposeScheduledProcedureStepTransactionUID ReferencedImageSequence
ReferencedObservationUIDTrial ReferencedPatientAliasSequence ReferencedPatientPhotoSequence
ReferencedPatientSequence ReferencedPerformedProcedureStepSequence ReferencedSOPInstanceMACSequence
ReferencedSOPInstanceUID ReferencedSOPInstanceUIDInFile ReferencedStudySequence
ReferencedTreatmentPositionGroupUID ReferringPhysicianAddress ReferringPhysicianIdentificationSequence
ReferringPhysicianName ReferringPhysicianTelephoneNumbers RegionOfResidence RelatedFrameOfReferenceUID
RequestAttributesSequence RequestedContrastAgent RequestedProcedureComments RequestedProcedureDescription
RequestedProcedureID RequestedProcedureLocation RequestedSOPInstanceUID RequestedSeriesDescription
RequestingAE RequestingPhysician RequestingService RespiratoryMotionCompensationTechniqueDescription
ResponsibleOrganization ResponsiblePerson ResultsComments ResultsDistributionListSequence ResultsID
ResultsIDIssuer RetrieveAETitle ReviewDate ReviewTime ReviewerName SOPAuthorizationDateTime SOPInstanceUID
SafePositionExitDate SafePositionExitTime SafePositionReturnDate SafePositionReturnTime ScheduledAdmissionDate
ScheduledAdmissionTime ScheduledDischargeDate ScheduledDischargeTime ScheduledHumanPerformersSequence
ScheduledPatientInstitutionResidence ScheduledPerformingPhysicianIdentificationSequence
ScheduledPerformingPhysicianName ScheduledProcedureStepDescription ScheduledProcedureStepEndDate
ScheduledProcedureStepEndTime ScheduledProcedureStepExpirationDateTime ScheduledProcedureStepID
ScheduledProcedureStepLocation ScheduledProcedureStepModificationDateTime ScheduledProcedureStepStartDate
ScheduledProcedureStepStartDateTime ScheduledProcedureStepStartTime ScheduledStationAETitle
ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence
ScheduledStudyLocation ScheduledStudyLocationAETitle ScheduledStudyStartDate ScheduledStudyStartTime
ScheduledStudyStopDate ScheduledStudyStopTime SecondaryCaptureDeviceID SecondaryDiagnosesCodeSequence
SegmentDefinitionDateTime SelectorAEValue SelectorASValue SelectorDAValue SelectorDTValue SelectorLOValue
SelectorLTValue SelectorOBValue SelectorPNValue SelectorSHValue SelectorSTValue SelectorTMValue
SelectorUNValue SelectorURValue SelectorUTValue SeriesDate SeriesDescription SeriesInstanceUID SeriesTime
ServiceEpisodeDescription ServiceEpisodeID SetupTechniqueDescription
SexParametersForClinicalUseCategoryCodeSequence SexParametersForClinicalUseCategoryComment
SexParametersForClinicalUseCategoryReference SexParametersForClinicalUseCategorySequence
ShieldingDeviceDescription SlideIdentifier SmokingStatus SourceConceptualVolumeUID SourceEndDateTime
SourceFrameOfReferenceUID SourceIdentifier SourceImageSequence SourceManufacturer SourceOfPreviousValues
SourceSerialNumber SourceStartDateTime SourceStrengthReferenceDate SourceStrengthReferenceTime SpecialNeeds
SpecimenAccessionNumber SpecimenDetailedDescription SpecimenIdentifier SpecimenPreparationSequence
SpecimenShortDescription SpecimenUID StartAcquisitionDateTime StationAETitle StationName
StorageMediaFileSetUID StructureSetDate StructureSetDescription StructureSetLabel StructureSetName
StructureSetTime StudyArrivalDate StudyArrivalTime StudyComments StudyCompletionDate StudyCompletionTime
StudyDate StudyDescription StudyID StudyIDIssuer StudyInstanceUID StudyReadDate StudyReadTime StudyTime
StudyVerifiedDate StudyVerifiedTime SubstanceAdministrationDateTime SynchronizationFrameOfReferenceUID
TableTopPositionAlignmentUID TargetUID TelephoneNumberTrial TemplateExtensionCreatorUID
TemplateExtensionOrganizationUID TemplateLocalVersion TemplateVersion TextComments TextString
ThirdPersonPronounsSequence Time TimeOfDocumentCreationOrVerbalTransactionTrial TimeOfLastCalibration
TimeOfLastDetectorCalibration TimeOfSecondaryCapture TimezoneOffsetFromUTC TopicAuthor TopicKeywords
TopicSubject TopicTitle TrackingUID TransactionUID TransducerIdentificationSequence TreatmentControlPointDate
TreatmentControlPointTime TreatmentDate TreatmentMachineName TreatmentPositionGroupLabel
TreatmentPositionGroupUID TreatmentSessionUID TreatmentSite TreatmentSites TreatmentTechniqueNotes
TreatmentTime TreatmentToleranceViolationDateTime TreatmentToleranceViolationDescription UDISequence UID
UnformattedTextValue UniqueDeviceIdentifier UserContentLabel UserContentLongLabel
VerbalSourceIdentifierCodeSequenceTrial VerbalSourceTrial VerificationDateTime
VerifyingObserverIdentificationCodeSequence VerifyingObserverName VerifyingObserverSequence
VerifyingOrganization VisitComments WaveformAnnotationSequence WaveformFilterDescription XRayDetectorID
XRayDetectorLabel XRaySourceID
"""

CONFIDENTIAL = frozenset(_ROWS.split())
"""Keywords of the rows of table E.1-1."""


def identifying(dataset: Dataset, keyword_for_tag: Callable[[int], str]) -> dict[str, str]:
    """The identifying metadata of an object, at any depth of its sequences.

    Args:
        keyword_for_tag: the dictionary of pydicom, which only `privsyn.cohort.dicom` imports.

    Returns:
        `DICOM PatientName` and so on to the value, or its different values, cut to `MARK_LENGTH` characters;
        the numbers of private elements, overlays and curves, if there are any; and always
        `DICOM BurnedInAnnotation`, what the file claims about text in its pixels, or `absent`.
    """
    found: dict[str, dict[str, None]] = {}
    private = 0
    overlays, curves = set[int](), set[int]()
    for part in (dataset.file_meta, dataset):
        for tag, value in _elements(part):
            group, keyword = tag >> 16, NEWER.get(tag) or keyword_for_tag(tag)
            if group % 2:
                private += 1
            elif group in OVERLAY_GROUPS:
                overlays.add(group)
            elif group in CURVE_GROUPS:
                curves.add(group)
            elif keyword in CONFIDENTIAL:
                found.setdefault(f"DICOM {keyword}", {})[value] = None
    marks = {name: "\\".join(values)[:MARK_LENGTH] for name, values in found.items()}
    counts = {"private tags": private, "overlay": len(overlays), "curve": len(curves)}
    marks.update({f"DICOM {name}": str(count) for name, count in counts.items() if count})
    claim = as_text(dataset.get("BurnedInAnnotation")).upper()[:MARK_LENGTH]
    return {**marks, "DICOM BurnedInAnnotation": claim or "absent"}


def as_text(value: object) -> str:
    """A value as one printable line; bytes as their number, several values joined by a backslash."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if value else ""
    if hasattr(value, "__iter__") and not isinstance(value, str) and not hasattr(value, "components"):
        return "\\".join(as_text(part) for part in value)
    line = " ".join(str(value).replace("\0", " ").split())
    return "".join(character if character.isprintable() else "?" for character in line)


def _elements(dataset: Dataset) -> Iterator[tuple[int, str]]:
    """Tag and value of every element with a value, also within sequences, but for private creators."""
    for tag in list(dataset.keys()):
        raw: Any = dataset.get_item(tag)
        if tag == 0x7FE00010 or tag.is_private_creator:
            continue
        if raw.is_raw and raw.value is None and raw.length and raw.VR != "SQ":
            yield int(tag), f"{raw.length} bytes"  # too long to have been read
            continue
        try:
            element = dataset[tag]
            items = list(element.value or ()) if element.VR == "SQ" else []
            text = f"{len(items)} item{'s' * (len(items) > 1)}" if items else as_text(element.value)
        except Exception:  # a value that cannot be parsed may still identify a person
            yield int(tag), "not readable"
            continue
        if text:
            yield int(tag), text
        for item in items:
            yield from _elements(item)
